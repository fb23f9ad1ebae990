-- Way back of account before key

set local lock_timeout = '5s';
set local statement_timeout = '60s';

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.end_probe(p_call_id uuid)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.provider_keys as key
  set refused_at = null, probe_at = null
  from app.provider_calls as call
  where call.id = p_call_id
    and key.fingerprint = call.key_fingerprint
    and key.refused_at is not null
    and call.created_at > key.refused_at;
  update app.provider_accounts as account
  set breaker_state = 'closed',
    breaker_until = null,
    breaker_reason = null,
    breaker_failures = 0,
    breaker_closed_at = app.clock_now(),
    probe_call_id = null
  from app.provider_calls as call
  where call.id = p_call_id
    and account.id = call.account_id
    and account.breaker_state = 'half_open'
    and account.probe_call_id = p_call_id
$$;

comment on function app.end_probe is
$$The provider took this call: if it is the probe, the breaker closes; if its key was refused
before, it is used again. Locks: the key, the account.$$;

reset role;
revoke create on schema app from jewelshot_ledger;
