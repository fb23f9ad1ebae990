-- Way back of tmp functions

set local lock_timeout = '5s';
set local statement_timeout = '60s';

drop function app.cancel_share(app.generations);

drop function app.check_possible(text,uuid,jsonb);

drop function app.require_possible(app.operations,integer,integer,jsonb);

drop function app.step_factor(app.operations,jsonb,jsonb);

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
    retry_of, state, input_key, result, finished_at
  )
  values (
    p_id, v_user_id, v_old.upload_id, v_old.operation, v_old.operation_version, v_old.lane,
    v_old.cost_credits, v_old.params, v_old.priority, v_old.id, 'succeeded', v_old.input_key,
    v_image.result, app.clock_now());
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
  if p_outcome = 'succeeded' then
    perform app.confirm(v_generation.user_id, 'run', p_id);
  else
    perform app.refund(v_generation.user_id, 'run', p_id);
  end if;
  update app.generations
  set state = p_outcome,
    finished_at = app.clock_now(),
    result = case when p_outcome = 'succeeded' then p_facts -> 'result' end,
    ending = case when p_outcome <> 'succeeded' then p_facts ->> 'ending' end
  where id = p_id
  returning * into v_generation;
  return app.generation_change(v_generation) || '{"late": false}';
end $$;

create or replace function app.start_generation(
  p_id uuid, p_operation text, p_upload_id uuid, p_params jsonb,
  p_priority smallint default 0, p_retry_of uuid default null
)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_operation app.operations;
  v_upload app.uploads;
  v_existing app.generations;
begin
  select *
  into v_operation
  from app.operations
  where slug = p_operation
    and is_active;
  if not found then
    raise exception 'no such operation' using errcode = 'JS404', detail = '{"kind": "operation"}';
  end if;
  if p_priority is null or p_priority not in (0, 1) then
    raise exception 'no such priority'
      using errcode = 'JS422', detail = '{"field": "priority", "reason": "out_of_range"}';
  end if;
  if app.params_fit(v_operation.params_schema, p_params) is not true then
    raise exception 'parameters out of bounds'
      using errcode = 'JS422', detail = '{"field": "params", "reason": "params_do_not_fit"}';
  end if;
  select *
  into v_upload
  from app.uploads
  where id = p_upload_id
    and user_id = v_user_id
  for key share;  -- it must not be deleted between here and the insert
  if not found then
    raise exception 'no such upload' using errcode = 'JS404', detail = '{"kind": "upload"}';
  end if;
  if v_upload.state <> 'ready' then
    raise exception 'upload is not ready'
      using errcode = 'JS409', detail = jsonb_build_object(
        'reason', 'upload_not_ready', 'state', v_upload.state)::text;
  end if;
  if p_retry_of is not null and not exists (
    select from app.generations where id = p_retry_of and user_id = v_user_id
  ) then
    raise exception 'no such generation'
      using errcode = 'JS404', detail = '{"kind": "generation"}';
  end if;
  perform app.lock_account(v_user_id);
  select *
  into v_existing
  from app.generations
  where id = p_id;
  if found then
    if v_existing.user_id <> v_user_id or v_existing.operation <> p_operation
      or v_existing.upload_id <> p_upload_id or v_existing.params <> p_params
    then
      raise exception 'generation id taken'
        using errcode = 'JS409', detail = '{"reason": "id_taken"}';
    end if;
    return app.start_answer(v_existing);
  end if;
  perform app.reserve(v_user_id, v_operation.cost_credits, 'run', p_id);
  insert into app.generations (
    id, user_id, upload_id, operation, operation_version, lane, cost_credits, params, priority,
    retry_of, input_key, wait_until, request_id
  )
  values (
    p_id, v_user_id, p_upload_id, v_operation.slug, v_operation.version, v_operation.lane,
    v_operation.cost_credits, p_params, p_priority, p_retry_of, v_upload.normal_key,
    app.now() + make_interval(secs => case p_priority when 0
      then v_operation.wait_seconds else v_operation.batch_wait_seconds end),
    nullif(current_setting('app.request_id', true), ''))
  returning * into v_existing;
  perform app.add_task(
    'generation.dispatch', '{}', p_id::text);
  return app.start_answer(v_existing);
end $$;

comment on function app.cancel_generation is
$$Free before it started; afterwards a request to the provider, and money moves on the end that
is verified. Returns the change. Locks: account, reservation, lots, generation.
Errors: JS401, JS404, JS409 {reason: already_finished, state}.
Replay: a cancelled generation answers as it is.$$;

comment on function app.start_generation is
$$The one way for users to start: identity from the claims, price and times from the catalogue.
It waits in its line from now on. Adds the ticket, a task whose dedupe key is the generation's id,
which nobody else adds, so it may come after the line. Returns app.start_answer.
Locks: upload (shared), account, lots, line. Errors: JS401, JS402, JS404 {kind: operation|upload},
JS409 {reason: upload_not_ready, state}, JS422 {field: priority|params}.
Replay: the same id and terms find themselves done.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

create or replace function app.emit_generation_event()
  returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform app.emit(
    new.user_id,
    case
      when new.state in ('succeeded', 'failed', 'cancelled') then 'generation.' || new.state
      when tg_op = 'INSERT' then 'generation.created'
      else 'generation.changed' end,
    new.id,
    new.version,
    jsonb_strip_nulls(jsonb_build_object(
      'state', new.state,
      'operation', new.operation,
      'lane', new.lane,
      'cost_credits', new.cost_credits,
      'step', new.step,
      'code', new.ending,
      'retry_of', new.retry_of)));
  return null;
end $$;

create or replace function app.prove_generations()
  returns table (check_name text, table_name text, row_id text, detail jsonb)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set row_security = off
as $$
  select 'generation_money', 'generations', generation.id::text, jsonb_build_object(
    'state', generation.state, 'cost_credits', generation.cost_credits,
    'reservation_state', reservation.state, 'reservation_amount', reservation.amount)
  from app.generations as generation
  left join app.reservations as reservation
    on reservation.subject_id = generation.id and reservation.purpose = 'run'
  where reservation.user_id is distinct from generation.user_id
    or reservation.amount is distinct from generation.cost_credits
    or reservation.state is distinct from case generation.state
      when 'succeeded' then 'confirmed' when 'failed' then 'refunded'
      when 'cancelled' then 'refunded' else 'pending' end

  union all
  select 'reservation_subject', 'reservations', reservation.id::text, jsonb_build_object(
    'subject_id', reservation.subject_id, 'created_at', reservation.created_at)
  from app.reservations as reservation
  where reservation.purpose = 'run'
    and not exists (select from app.generations where id = reservation.subject_id)

  union all
  select 'reservation_overdue', 'reservations', reservation.id::text, jsonb_build_object(
    'subject_id', reservation.subject_id, 'wait_until', generation.wait_until,
    'deadline_at', generation.deadline_at)
  from app.reservations as reservation
  join app.generations as generation on generation.id = reservation.subject_id
  where reservation.state = 'pending'
    and generation.held_at is null
    and coalesce(
      coalesce(generation.deadline_at, generation.wait_until) < app.now() - interval '5 minutes',
      true)

  union all
  select 'generation_out_of_line', 'generations', min(generation.id::text), jsonb_build_object(
    'line', generation.line, 'user_id', generation.user_id, 'waiting', count(*),
    'serve_at', place.serve_at)
  from app.generations as generation
  left join app.lines as place on place.line = generation.line and place.key = generation.user_id
  where generation.line is not null
  group by generation.line, generation.user_id, place.serve_at
  having coalesce(
    place.serve_at > greatest(min(generation.available_at), app.now()) + interval '1 minute', true)
$$;

-- tables
set local lock_timeout = '5s';
set local statement_timeout = '60s';

update app.operations
set steps = (
  select jsonb_agg(step - 'unit_price_usd' - 'limits' order by place)
  from jsonb_array_elements(steps) with ordinality as part (step, place));
alter table app.operations
  drop constraint operations_cancel_credits,
  drop column cancel_credits;
drop function app.rises_below(bigint[], bigint);
alter table app.generations drop column charged_credits;
