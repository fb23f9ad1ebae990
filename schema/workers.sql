-- Which worker processes run, and their counters.
-- after: base, tasks

create table app.worker_heartbeats (
  worker_id uuid primary key,
  host text not null,
  pid integer not null,
  started_at timestamptz not null default app.now(),
  seen_at timestamptz not null default app.now(),
  in_flight integer not null default 0
);

-- Counters that worker processes flush every few seconds, for /metrics. Not money: a killed
-- process loses its last few seconds.
create table app.metric_counters (
  name text not null,
  labels jsonb not null,
  value double precision not null,
  seen_at timestamptz not null default app.now(),  -- of the last flush that added to it
  primary key (name, labels)
);

alter table app.worker_heartbeats enable row level security;
alter table app.worker_heartbeats force row level security;
alter table app.metric_counters enable row level security;
alter table app.metric_counters force row level security;

revoke all on
  app.worker_heartbeats, app.metric_counters
  from public, anon, authenticated, service_role;

grant select on app.worker_heartbeats, app.metric_counters to jewelshot_ledger;
grant select, insert, delete, update (seen_at, in_flight)
  on app.worker_heartbeats to jewelshot_worker;
grant select, insert, delete, update (value, seen_at) on app.metric_counters to jewelshot_worker;
grant select on app.worker_heartbeats to jewelshot_admin;

create policy worker_heartbeats_reader on app.worker_heartbeats for select to jewelshot_ledger
  using (true);
create policy worker_heartbeats_worker on app.worker_heartbeats to jewelshot_worker
  using (true) with check (true);
create policy worker_heartbeats_admin on app.worker_heartbeats for select to jewelshot_admin
  using ((select app.is_admin()));
create policy metric_counters_reader on app.metric_counters for select to jewelshot_ledger
  using (true);
create policy metric_counters_worker on app.metric_counters to jewelshot_worker
  using (true) with check (true);

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.tasks_health()
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
    'outbox_lag_seconds', (
      select coalesce(extract(epoch from app.now() - min(due_at)), 0)
      from app.outbox
      where due_at < app.now()),
    'dead_letters_last_hour', (
      select count(*)
      from app.dead_letters
      where died_at > app.now() - interval '1 hour'
        and replayed_at is null))
$$;
comment on function app.tasks_health is
$$Facts about tasks for /readyz. Cheap: partial indexes only.$$;

create function app.tasks_figures()
  returns table (name text, labels jsonb, value double precision)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select 'jewelshot_outbox_lag_seconds', '{}'::jsonb,
    coalesce(extract(epoch from app.now() - min(due_at)), 0)::double precision
  from app.outbox
  where due_at < app.now()
  union all
  select 'jewelshot_outbox_tasks', jsonb_build_object('job', job), count(*)
  from app.outbox
  group by job
  union all
  select 'jewelshot_dead_letters', '{}', count(*)
  from app.dead_letters
  where replayed_at is null
  union all
  select 'jewelshot_workers', '{}', count(*)
  from app.worker_heartbeats
  where seen_at > app.now() - interval '30 seconds'
  union all
  select counter.name, counter.labels, counter.value
  from app.metric_counters as counter
$$;
comment on function app.tasks_figures is
$$Gauges and counters of tasks for /metrics as (name, labels, value).$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.tasks_health(),
  app.tasks_figures()
  to jewelshot_api;
