-- Provider accounts and keys: which may be called, and how many calls at once.
-- after: base

create table app.provider_accounts (
  id uuid primary key default gen_random_uuid(),
  provider text not null default 'fal',
  name text not null,
  slots integer not null,
  tickets bigint not null default 0,  -- first steps that it was given: every fourth is a batch's
  cooldown_until timestamptz,
  breaker_state text not null default 'closed',
  breaker_until timestamptz,
  breaker_reason text,
  breaker_failures integer not null default 0,
  created_at timestamptz not null default app.now(),
  breaker_closed_at timestamptz,  -- what was sent before speaks of the time before
  probe_call_id uuid,  -- the call whose answer decides, while half open
  looks_paused_until timestamptz,  -- a rate limit of status and result; submits go on
  constraint provider_accounts_name unique (provider, name),
  constraint provider_accounts_slots_positive check (slots > 0),
  constraint provider_accounts_breaker_state
    check (breaker_state in ('closed', 'open', 'half_open'))
);

create table app.provider_keys (
  fingerprint text primary key,  -- of the secret; the secret itself is only in the environment
  account_id uuid not null references app.provider_accounts (id) on delete restrict,
  name text not null,
  last_used_at timestamptz,
  created_at timestamptz not null default app.now(),
  refused_at timestamptz,  -- since when the provider does not know it
  probe_at timestamptz,  -- when it is tried again
  held_at timestamptz not null default app.now(),  -- when a process had it last in its environment
  constraint provider_keys_refused check ((refused_at is null) = (probe_at is null))
);
create index provider_keys_account_id on app.provider_keys (account_id);

alter table app.provider_accounts enable row level security;
alter table app.provider_accounts force row level security;
alter table app.provider_keys enable row level security;
alter table app.provider_keys force row level security;

revoke all on
  app.provider_accounts, app.provider_keys
  from public, anon, authenticated, service_role;

grant select, insert, update on app.provider_accounts, app.provider_keys to jewelshot_ledger;
grant select on app.provider_accounts, app.provider_keys to jewelshot_worker, jewelshot_admin;

create policy provider_accounts_writer on app.provider_accounts to jewelshot_ledger
  using (true) with check (true);
create policy provider_accounts_worker on app.provider_accounts for select to jewelshot_worker
  using (true);
create policy provider_accounts_admin on app.provider_accounts for select to jewelshot_admin
  using ((select app.is_admin()));
create policy provider_keys_writer on app.provider_keys to jewelshot_ledger
  using (true) with check (true);
create policy provider_keys_worker on app.provider_keys for select to jewelshot_worker using (true);
create policy provider_keys_admin on app.provider_keys for select to jewelshot_admin
  using ((select app.is_admin()));

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.sync_provider_keys(p_keys jsonb, p_slots integer)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into app.provider_accounts (provider, name, slots)
  select distinct coalesce(entry ->> 'provider', 'fal'), entry ->> 'account', p_slots
  from jsonb_array_elements(p_keys) as entry
  order by 1, 2
  on conflict (provider, name) do update
  set slots = excluded.slots;
  insert into app.provider_keys (fingerprint, account_id, name)
  select entry ->> 'fingerprint', account.id, entry ->> 'name'
  from jsonb_array_elements(p_keys) as entry
  join app.provider_accounts as account
    on account.provider = coalesce(entry ->> 'provider', 'fal')
    and account.name = entry ->> 'account'
  order by 1
  on conflict (fingerprint) do update
  set account_id = excluded.account_id, name = excluded.name, held_at = app.now();
end $$;
comment on function app.sync_provider_keys is
$$The keys of a process's environment: [{name, fingerprint, account, provider}], provider
fal where it is missing. Replay: the same rows.$$;

create function app.hold_keys(p_fingerprints text[])
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.provider_keys
  set held_at = app.now()
  where fingerprint in (
    select fingerprint
    from app.provider_keys
    where fingerprint = any (p_fingerprints)
    for no key update skip locked)
$$;
comment on function app.hold_keys is
$$A process still has these keys. One that is being taken for a call is held by that.
Locks: the keys by skip locked, so it waits for nobody.$$;

create function app.accounts_in_use()
  returns table (id uuid, name text, slots integer, breaker_state text, breaker_failures integer,
    keys bigint, keys_refused bigint)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select account.id, account.name, account.slots, account.breaker_state, account.breaker_failures,
    count(*), count(key.refused_at)
  from app.provider_accounts as account
  join app.provider_keys as key on key.account_id = account.id
  where key.held_at > app.now() - interval '5 minutes'
  group by account.id
$$;
comment on function app.accounts_in_use is
$$Accounts a key of which a process has now, and how many of those keys the provider refuses. One
that was renamed, or whose keys were taken away, is neither well nor ill.$$;

create function app.cool_down(p_account_id uuid, p_pause_seconds double precision)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.provider_accounts
  set cooldown_until =
    greatest(cooldown_until, app.now() + make_interval(secs => p_pause_seconds))
  where id = p_account_id
$$;
comment on function app.cool_down is
$$A rate limit of submits. The later of two wins, so a slow answer cannot shorten a newer one.
Locks: the account.$$;

create function app.pause_looks(p_account_id uuid, p_pause_seconds double precision)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.provider_accounts
  set looks_paused_until =
    greatest(looks_paused_until, app.now() + make_interval(secs => p_pause_seconds))
  where id = p_account_id
$$;
comment on function app.pause_looks is
$$A rate limit of polls and results: they pause, submits go on. The later of two wins.
Locks: the account.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.sync_provider_keys(jsonb, integer),
  app.hold_keys(text[]),
  app.cool_down(uuid, double precision),
  app.pause_looks(uuid, double precision)
  to jewelshot_worker;
