-- Way back of tmp functions

set local lock_timeout = '5s';
set local statement_timeout = '60s';

drop function app.is_billed(app.provider_calls);

drop function app.require_paid_work(uuid);

drop function app.unpaid_figures();

drop function app.unpaid_work(uuid);

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

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
  perform app.require_possible(v_operation, v_upload.width, v_upload.height, p_params);
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

comment on function app.start_generation is
$$The one way for users to start: identity from the claims, price and times from the catalogue.
It waits in its line from now on. Adds the ticket, a task whose dedupe key is the generation's id,
which nobody else adds, so it may come after the line. Returns app.start_answer.
Locks: upload (shared), account, lots, line. Errors: JS401, JS402, JS404 {kind: operation|upload},
JS409 {reason: upload_not_ready, state}, JS422 {field: priority|params},
JS422 (app.require_possible: it could not succeed).
Replay: the same id and terms find themselves done.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

-- tables
drop index app.generations_unpaid;
drop table app.unpaid_terms;
