-- Figures and readiness speak of the accounts whose keys a process has now.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

alter table app.provider_keys
  add column held_at timestamptz not null default app.now();

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.accounts_in_use()
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

create or replace function app.generations_figures()
  returns table (name text, labels jsonb, value double precision)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select 'jewelshot_generations_open', jsonb_build_object('state', known.state),
    count(generation.id)::double precision
  from unnest(array['queued', 'submitting', 'running', 'collecting', 'uncertain']) as known (state)
  left join app.generations as generation
    on generation.state = known.state
    and generation.state in ('queued', 'submitting', 'running', 'collecting', 'uncertain')
  group by known.state
  union all
  select 'jewelshot_queue_depth', jsonb_build_object('priority', known.label),
    count(generation.id)
  from (values (0, 'interactive'), (1, 'batch')) as known (priority, label)
  left join app.generations as generation
    on generation.state = 'queued' and generation.priority = known.priority
  group by known.label
  union all
  select 'jewelshot_queue_age_seconds', '{}', app.queue_age_seconds()
  union all
  select 'jewelshot_provider_slots', jsonb_build_object('account', account.name), account.slots
  from app.provider_accounts as account
  union all
  select 'jewelshot_provider_slots_held', jsonb_build_object('account', account.name),
    count(call.id)
  from app.provider_accounts as account
  left join app.provider_calls as call
    on call.account_id = account.id and call.state in ('submitting', 'accepted', 'ambiguous')
  group by account.name
  union all
  select 'jewelshot_provider_breaker_open', jsonb_build_object('account', name),
    (breaker_state <> 'closed' or keys_refused = keys)::integer
  from app.accounts_in_use()
  union all
  select 'jewelshot_provider_breaker_failures', jsonb_build_object('account', name),
    breaker_failures
  from app.accounts_in_use()
  union all
  select 'jewelshot_provider_keys_refused', jsonb_build_object('account', name), keys_refused
  from app.accounts_in_use()
$$;

create or replace function app.generations_health()
  returns jsonb
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'known', count(*),
    'healthy', count(*) filter (where breaker_state = 'closed' and keys_refused < keys),
    'refused_keys', coalesce(sum(keys_refused), 0),
    'queue_age_seconds', app.queue_age_seconds())
  from app.accounts_in_use()
$$;

create or replace function app.hold_keys(p_fingerprints text[])
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

create or replace function app.sync_provider_keys(p_keys jsonb, p_slots integer)
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

create or replace function app.take_key(p_account_id uuid, p_fingerprints text[], p_for_probe boolean)
  returns text
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.provider_keys
  set last_used_at = app.clock_now(),
    held_at = app.now(),
    probe_at = case when refused_at is not null then app.now() + interval '10 minutes' end
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

create or replace function app.whose_refusal(p_call_id uuid)
  returns text
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when app.has_passed(
      call.account_id, greatest(own.generation_at, others.refused_at), call.generation_id)
      and own.generation_at is not null then 'generation'
    when app.has_passed(
      call.account_id, greatest(own.person_at, others.refused_at), call.generation_id)
      and own.person_at is not null and own.generation_at is null then 'person'
    when app.has_passed(
      call.account_id, greatest(elsewhere.refused_at - interval '1 minute', others.refused_at),
      call.generation_id)
      and elsewhere.refused_at is not null and own.generation_at is null then 'person'
    else 'account' end
  from app.provider_calls as call
  cross join lateral (
    select min(ended_at) as person_at,
      min(ended_at) filter (where generation_id = call.generation_id) as generation_at
    from app.provider_calls
    where account_id = call.account_id
      and state = 'refused'
      and http_status = 403
      and ended_at > app.now() - interval '1 hour'
      and user_id = call.user_id
      and id <> call.id
  ) as own
  cross join lateral (
    select max(ended_at) as refused_at
    from app.provider_calls
    where account_id = call.account_id
      and state = 'refused'
      and http_status = 403
      and ended_at > app.now() - interval '1 hour'
      and user_id <> call.user_id
  ) as others
  cross join lateral (
    select max(ended_at) as refused_at
    from app.provider_calls
    where generation_id = call.generation_id
      and account_id <> call.account_id
      and state = 'refused'
      and http_status = 403
      and ended_at > app.now() - interval '1 hour'
  ) as elsewhere
  where call.id = p_call_id
$$;

comment on function app.accounts_in_use is
$$Accounts a key of which a process has now, and how many of those keys the provider refuses. One
that was renamed, or whose keys were taken away, is neither well nor ill.$$;

comment on function app.hold_keys is
$$A process still has these keys. One that is being taken for a call is held by that.
Locks: the keys by skip locked, so it waits for nobody.$$;

comment on function app.whose_refusal is
$$Whom a 403 speaks of. The `account`, unless since an earlier one of the same generation or person
it has taken another generation's call, and refused nobody else after that: then of the `generation`,
at its second, or of the `person`, at the first of another one of theirs. Also of the person, where
another account has refused the generation just before, and this one took others until then: else one
order would shut one account after the other. Nobody passed since: the account, so that a lock that
comes back when only one person orders is seen.
Source: one note says that the words for a locked account also come for refused content.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function app.hold_keys(text[]) to jewelshot_worker;
