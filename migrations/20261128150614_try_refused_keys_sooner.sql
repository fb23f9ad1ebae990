-- try refused keys sooner: what it makes, and why

set local lock_timeout = '5s';
set local statement_timeout = '60s';

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.refuse_key(p_call_id uuid)
  returns text
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  -- A stray refusal passes within seconds. After the first try take_key says when the next one is;
  -- what was on its way when the key was refused moves nothing.
  update app.provider_keys as key
  set refused_at = coalesce(key.refused_at, app.clock_now()),
    probe_at = coalesce(key.probe_at, app.now() + interval '15 seconds')
  from app.provider_calls as call
  where call.id = p_call_id
    and key.fingerprint = call.key_fingerprint
  returning key.name
$$;

create or replace function app.take_key(p_account_id uuid, p_fingerprints text[], p_for_probe boolean)
  returns text
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.provider_keys
  set last_used_at = app.clock_now(),
    held_at = app.now(),
    -- An operator changes a key within minutes, and each try costs somebody one round trip: so the
    -- pause is as long as the key has been refused already.
    probe_at = case when refused_at is not null then app.now() + greatest(
      interval '15 seconds', least(interval '10 minutes', app.now() - refused_at)) end
  where fingerprint = (
    select fingerprint
    from app.provider_keys
    where account_id = p_account_id
      and fingerprint = any (p_fingerprints)
      and (refused_at is null or probe_at <= app.now())
    order by (refused_at is null) = p_for_probe desc, last_used_at nulls first, fingerprint
    limit 1
  )
  returning fingerprint
$$;

comment on function app.refuse_key is
$$The provider does not know the key of this submit: it is not used but for one try after 15 seconds,
and then after as long as it has been refused, ten minutes at most. The account goes on with its other keys. Returns the key's name. Locks: the key.$$;

reset role;
revoke create on schema app from jewelshot_ledger;
