-- Way back of close breaker asks who comes

set local lock_timeout = '5s';
set local statement_timeout = '60s';

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.close_breaker(p_account_id uuid, p_reason text)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_account app.provider_accounts;
  v_keys text[];
begin
  if not app.is_admin() then
    raise exception 'admins only' using errcode = 'JS403', detail = '{"reason": "admin_required"}';
  end if;
  select *
  into v_account
  from app.provider_accounts
  where id = p_account_id
  for no key update;
  if not found then
    raise exception 'no such provider account'
      using errcode = 'JS404', detail = '{"kind": "provider_account"}';
  end if;
  with tried as (
    update app.provider_keys
    set probe_at = app.now()
    where account_id = p_account_id
      and refused_at is not null
      and probe_at > app.now()
    returning name
  )
  select array_agg(name order by name)
  into v_keys
  from tried;
  if v_account.breaker_state = 'closed' and v_keys is null then
    return;
  end if;
  update app.provider_accounts
  set breaker_state = 'closed',
    breaker_until = null,
    breaker_reason = null,
    breaker_failures = 0,
    breaker_closed_at = app.clock_now(),
    probe_call_id = null
  where id = p_account_id
    and breaker_state <> 'closed';
  perform app.write_audit('provider_account.close_breaker', p_account_id::text, jsonb_build_object(
    'reason', p_reason,
    'account', v_account.name,
    'breaker_state', v_account.breaker_state,
    'breaker_reason', v_account.breaker_reason,
    'keys_tried_again', coalesce(v_keys, '{}')));
end $$;

reset role;
revoke create on schema app from jewelshot_ledger;
