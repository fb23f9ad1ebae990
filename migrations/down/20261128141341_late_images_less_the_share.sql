-- Way back of late images less the share

set local lock_timeout = '5s';
set local statement_timeout = '60s';

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.buy_late_image(p_id uuid, p_generation_id uuid)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_image app.late_images;
  v_old app.generations;
begin
  perform app.lock_account(v_user_id);
  select *
  into v_image
  from app.late_images
  where generation_id = p_generation_id
    and user_id = v_user_id
  for no key update;
  if not found then
    raise exception 'no late image' using errcode = 'JS404', detail = '{"kind": "late_image"}';
  end if;
  select *
  into v_old
  from app.generations
  where id = p_generation_id;
  if v_image.bought_as = p_id then
    return jsonb_build_object('cost_credits', v_old.cost_credits);
  end if;
  if v_image.bought_as is not null then
    raise exception 'already bought'
      using errcode = 'JS409', detail = jsonb_build_object(
        'reason', 'already_bought', 'generation_id', v_image.bought_as)::text;
  end if;
  if v_image.expires_at <= app.now() then
    raise exception 'late image expired' using errcode = 'JS410', detail = '{"kind": "late_image"}';
  end if;
  perform app.reserve(v_user_id, v_old.cost_credits, 'run', p_id);
  perform app.confirm(v_user_id, 'run', p_id);
  insert into app.generations (
    id, user_id, upload_id, operation, operation_version, lane, cost_credits, params, priority,
    retry_of, state, input_key, result, finished_at, charged_credits
  )
  values (
    p_id, v_user_id, v_old.upload_id, v_old.operation, v_old.operation_version, v_old.lane,
    v_old.cost_credits, v_old.params, v_old.priority, v_old.id, 'succeeded', v_old.input_key,
    v_image.result, app.clock_now(), v_old.cost_credits);
  update app.late_images
  set bought_as = p_id
  where generation_id = p_generation_id;
  return jsonb_build_object('cost_credits', v_old.cost_credits);
end $$;

create or replace function app.finish_generation(
  p_id uuid, p_lease_token uuid, p_outcome text, p_facts jsonb
)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_generation app.generations;
  v_call_id uuid := (p_facts ->> 'call_id')::uuid;
  v_charged bigint;
begin
  select *
  into v_generation
  from app.generations
  where id = p_id;
  if not found then
    raise exception 'no such generation'
      using errcode = 'JS404', detail = '{"kind": "generation"}';
  end if;
  perform app.lock_account(v_generation.user_id);
  select *
  into v_generation
  from app.generations
  where id = p_id
  for no key update;
  perform app.complete_task(p_lease_token);
  if v_call_id is not null then
    perform app.end_call(v_call_id, p_facts -> 'call');
  end if;
  if v_generation.finished_at is not null then
    if p_outcome = 'succeeded' and v_generation.state <> 'succeeded' then
      insert into app.late_images (generation_id, user_id, call_id, result)
      values (p_id, v_generation.user_id, v_call_id, p_facts -> 'result')
      on conflict do nothing;
      if found then
        perform app.emit(
          v_generation.user_id, 'late_image.arrived', p_id, v_generation.version,
          jsonb_build_object('operation', v_generation.operation, 'lane', v_generation.lane,
            'cost_credits', v_generation.cost_credits));
      end if;
    end if;
    return app.generation_change(v_generation) || '{"late": true}';
  end if;
  if p_outcome <> 'succeeded' and v_call_id <> v_generation.current_call_id then
    return null;
  end if;
  -- A call that was submitted after an ambiguous answer is not needed any more.
  perform app.add_task(
    'provider_call.cancel', jsonb_build_object('call_id', id), id::text, 0)
  from app.provider_calls
  where generation_id = p_id
    and state = 'accepted'
    and id is distinct from v_call_id;
  v_charged := case p_outcome
    when 'succeeded' then v_generation.cost_credits
    when 'cancelled' then app.cancel_share(v_generation)
    else 0 end;
  if p_outcome = 'succeeded' then
    perform app.confirm(v_generation.user_id, 'run', p_id);
  else
    perform app.refund(v_generation.user_id, 'run', p_id, v_charged);
  end if;
  update app.generations
  set state = p_outcome,
    charged_credits = v_charged,
    finished_at = app.clock_now(),
    result = case when p_outcome = 'succeeded' then p_facts -> 'result' end,
    ending = case when p_outcome <> 'succeeded' then p_facts ->> 'ending' end
  where id = p_id
  returning * into v_generation;
  return app.generation_change(v_generation) || '{"late": false}';
end $$;

comment on function app.buy_late_image is
$$Buys an image that came after its refund: a generation that is done at once.
Returns {cost_credits}. Locks: account, lots, late image. Errors: JS401, JS402, JS404, JS410.
Replay: the same new id finds itself done.$$;

reset role;
revoke create on schema app from jewelshot_ledger;
