-- What operators look at: /readyz and /metrics.
-- after: base, credits, tasks, workers, providers, generations, pipeline

create function app.schema_version()
  returns text
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select max(version)
  from supabase_migrations.schema_migrations
$$;
comment on function app.schema_version is
$$The newest applied migration, for "at head?"; the ledger itself stays the migrating role's.$$;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.health()
  returns jsonb
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'workers', (
      select count(*)
      from app.worker_heartbeats
      where seen_at > app.now() - interval '30 seconds'),
    'provider_accounts', (select count(*) from app.provider_accounts),
    'provider_accounts_healthy', (
      select count(*)
      from app.provider_accounts
      where breaker_state = 'closed'),
    'outbox_lag_seconds', (
      select coalesce(extract(epoch from app.now() - min(due_at)), 0)
      from app.outbox
      where due_at < app.now()),
    'queue_age_seconds', (
      select coalesce(extract(epoch from app.now() - min(available_at)), 0)
      from app.generations
      where state = 'queued'
        and available_at < app.now()),
    'dead_letters_last_hour', (
      select count(*)
      from app.dead_letters
      where died_at > app.now() - interval '1 hour'
        and replayed_at is null))
$$;
comment on function app.health is
$$One JSON document for /readyz: what is alive and what lags. Cheap: partial indexes only.$$;

create function app.metrics()
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
  select 'jewelshot_queue_age_seconds', '{}',
    coalesce(extract(epoch from app.now() - min(available_at)), 0)
  from app.generations
  where state = 'queued'
    and available_at < app.now()
  union all
  select 'jewelshot_outbox_lag_seconds', '{}',
    coalesce(extract(epoch from app.now() - min(due_at)), 0)
  from app.outbox
  where due_at < app.now()
  union all
  select 'jewelshot_outbox_tasks', '{}', count(*)
  from app.outbox
  union all
  select 'jewelshot_dead_letters', '{}', count(*)
  from app.dead_letters
  where replayed_at is null
  union all
  select 'jewelshot_credits_reserved', '{}', coalesce(sum(amount), 0)
  from app.reservations
  where state = 'pending'
  union all
  select 'jewelshot_credits_' || known.state || '_last_hour', '{}',
    coalesce(sum(reservation.amount), 0)
  from (values ('confirmed'), ('refunded')) as known (state)
  left join app.reservations as reservation
    on reservation.state = known.state
    and reservation.resolved_at > app.now() - interval '1 hour'
  group by known.state
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
  select 'jewelshot_provider_breaker_open', jsonb_build_object('account', account.name),
    (breaker_state <> 'closed')::integer
  from app.provider_accounts as account
  union all
  select 'jewelshot_workers', '{}', count(*)
  from app.worker_heartbeats
  where seen_at > app.now() - interval '30 seconds'
  union all
  select counter.name, counter.labels, counter.value
  from app.metric_counters as counter
$$;
comment on function app.metrics is
$$Gauges and counters for /metrics as (name, labels, value).$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.health(),
  app.metrics(),
  app.schema_version()
  to jewelshot_api;
grant execute on function app.schema_version() to jewelshot_worker;
