-- Provider accounts and keys: who may be asked, and how much at once.

create table app.provider_accounts (
  id uuid primary key default gen_random_uuid(),
  provider text not null default 'fal',
  name text not null,
  slots integer not null,
  cooldown_until timestamptz,
  breaker_state text not null default 'closed',
  breaker_until timestamptz,
  breaker_reason text,
  breaker_failures integer not null default 0,
  created_at timestamptz not null default app.now(),
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
  created_at timestamptz not null default app.now()
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
grant update (cooldown_until, breaker_state, breaker_until, breaker_reason, breaker_failures)
  on app.provider_accounts to jewelshot_worker;

create policy provider_accounts_writer on app.provider_accounts to jewelshot_ledger
  using (true) with check (true);
create policy provider_accounts_worker on app.provider_accounts to jewelshot_worker
  using (true) with check (true);
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
  set account_id = excluded.account_id, name = excluded.name;
end $$;
comment on function app.sync_provider_keys is
$$The keys of a process's environment: [{name, fingerprint, account, provider}], provider
fal where it is not said. Replay: the same rows.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function app.sync_provider_keys(jsonb, integer) to jewelshot_worker;
