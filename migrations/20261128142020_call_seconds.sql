-- How long a call took is said by the clock of the database alone.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.begin_collect(p_call_id uuid, p_take_over boolean default false)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_call app.provider_calls;
  v_generation app.generations;
  v_operation app.operations;
  v_upload app.uploads;
  v_role text;
begin
  select *
  into v_call
  from app.provider_calls
  where id = p_call_id;
  if not found then
    raise exception 'no such call' using errcode = 'JS404', detail = '{"kind": "provider_call"}';
  end if;
  select *
  into v_generation
  from app.generations
  where id = v_call.generation_id
  for no key update;
  -- Again, now that no other transaction can end it.
  select *
  into v_call
  from app.provider_calls
  where id = p_call_id;
  select *
  into v_operation
  from app.operations
  where slug = v_generation.operation
    and version = v_generation.operation_version;
  select *
  into v_upload
  from app.uploads
  where id = v_generation.upload_id;
  v_role := case
    when v_generation.finished_at is not null or v_generation.step <> v_call.step
      or v_call.state not in ('accepted', 'abandoned') then 'late'
    when v_generation.current_call_id = p_call_id or p_take_over then 'current'
    else 'superseded' end;
  if v_role = 'current' then
    update app.generations
    set state = 'collecting', current_call_id = p_call_id
    where id = v_generation.id
      and (state <> 'collecting' or current_call_id <> p_call_id)
    returning * into v_generation;
    if not found then
      select *
      into v_generation
      from app.generations
      where id = v_call.generation_id;
    end if;
  end if;
  return app.generation_change(v_generation) || jsonb_build_object(
    'role', v_role,
    'attempts', v_generation.attempts,
    'is_given_up', coalesce(v_generation.give_up_at <= app.now(), false),
    'cancel_requested', v_generation.cancel_requested_at is not null,
    'operation', v_generation.operation,
    'output_rule', v_operation.output_rule,
    'steps', v_operation.steps,
    'params', v_generation.params,
    'source_key', v_upload.normal_key,
    'source_width', v_upload.width,
    'source_height', v_upload.height,
    'call_state', v_call.state,
    'call_id', v_call.id,
    'call_seconds', extract(epoch from app.clock_now() - v_call.created_at)::double precision,
    'abandoned_seconds', case when v_call.state = 'abandoned' then
      extract(epoch from app.clock_now() - v_call.ended_at)::double precision end,
    'step', v_call.step,
    'endpoint', v_call.endpoint,
    'provider', v_call.provider,
    'account_id', v_call.account_id,
    'account', (select name from app.provider_accounts where id = v_call.account_id),
    'key_fingerprint', v_call.key_fingerprint,
    'request_id', v_call.request_id,
    'response_url', v_call.response_url);
end $$;

reset role;
revoke create on schema app from jewelshot_ledger;
