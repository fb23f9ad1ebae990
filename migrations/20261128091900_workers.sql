-- Who is alive, and what worker processes count.

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
grant select, insert, update (value) on app.metric_counters to jewelshot_worker;
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
