-- Later work: the outbox, what it could not do, schedules, who is alive, and the audit log.

-- A row is written with the change that wants it. The task is done when its row is deleted in the
-- transaction of its effect. Redis carries only the id, and may be lost at any time.
create table app.outbox (
  id uuid primary key default gen_random_uuid(),
  queue text not null default 'default',
  job text not null,
  args jsonb not null default '{}',
  due_at timestamptz not null default now(),
  attempts integer not null default 0,
  lease_token uuid,
  lease_until timestamptz,
  last_error text,
  request_id text,
  dedupe_key text,
  created_at timestamptz not null default now(),
  constraint outbox_queue check (queue in ('interactive', 'default', 'background')),
  constraint outbox_lease check ((lease_token is null) = (lease_until is null))
);

create unique index outbox_only_one_live on app.outbox (job, dedupe_key)
  where dedupe_key is not null;
create index outbox_due on app.outbox (due_at);

create table app.dead_letters (
  id uuid primary key,  -- the task's
  queue text not null,
  job text not null,
  args jsonb not null,
  attempts integer not null,
  error text not null,
  request_id text,
  created_at timestamptz not null,
  died_at timestamptz not null default now(),
  replayed_at timestamptz
);

create index dead_letters_died_at on app.dead_letters (died_at desc);

create table app.schedules (
  name text primary key,
  job text not null,
  every_seconds integer not null,
  next_due_at timestamptz not null default now(),
  last_issued_at timestamptz,
  constraint schedules_every_positive check (every_seconds > 0)
);

create table app.worker_heartbeats (
  worker_id uuid primary key,
  host text not null,
  pid integer not null,
  started_at timestamptz not null default now(),
  seen_at timestamptz not null default now(),
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

create table app.audit_log (
  id bigint generated always as identity primary key,
  actor text not null,
  action text not null,
  target text,
  detail jsonb not null default '{}',
  created_at timestamptz not null default now()
);

create trigger audit_log_append_only
  before update or delete on app.audit_log
  for each statement execute function app.refuse_change();
create trigger audit_log_no_truncate
  before truncate on app.audit_log
  for each statement execute function app.refuse_change();

create table app.idempotency_keys (
  user_id uuid not null references app.users (id) on delete restrict,
  route text not null,
  key text not null,
  body_sha256 bytea not null,
  status integer not null,
  response jsonb not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null default now() + interval '24 hours',
  primary key (user_id, route, key),
  constraint idempotency_keys_key_length check (length(key) between 1 and 255)
);

create index idempotency_keys_expires_at on app.idempotency_keys (expires_at);

alter table app.outbox enable row level security;
alter table app.outbox force row level security;
alter table app.dead_letters enable row level security;
alter table app.dead_letters force row level security;
alter table app.schedules enable row level security;
alter table app.schedules force row level security;
alter table app.worker_heartbeats enable row level security;
alter table app.worker_heartbeats force row level security;
alter table app.metric_counters enable row level security;
alter table app.metric_counters force row level security;
alter table app.audit_log enable row level security;
alter table app.audit_log force row level security;
alter table app.idempotency_keys enable row level security;
alter table app.idempotency_keys force row level security;

revoke all on app.outbox, app.dead_letters, app.schedules, app.worker_heartbeats,
  app.metric_counters, app.audit_log, app.idempotency_keys
  from public, anon, authenticated, service_role;

grant select, insert, update, delete on app.outbox to jewelshot_ledger;
grant select, insert, update (replayed_at) on app.dead_letters to jewelshot_ledger;
grant select on app.schedules, app.worker_heartbeats, app.metric_counters to jewelshot_ledger;
grant update (next_due_at, last_issued_at) on app.schedules to jewelshot_ledger;
grant select, insert on app.audit_log to jewelshot_ledger;
grant select, insert, delete on app.idempotency_keys to jewelshot_ledger;

-- The worker leases, reschedules and completes tasks itself.
grant select, insert, delete,
  update (due_at, attempts, lease_token, lease_until, last_error)
  on app.outbox to jewelshot_worker;
grant select on app.dead_letters, app.schedules to jewelshot_worker;
grant select, insert, delete, update (seen_at, in_flight)
  on app.worker_heartbeats to jewelshot_worker;
grant select, insert, update (value) on app.metric_counters to jewelshot_worker;
grant select, delete on app.idempotency_keys to jewelshot_worker;

grant select on app.dead_letters, app.schedules, app.worker_heartbeats, app.audit_log, app.outbox
  to jewelshot_admin;

create policy outbox_writer on app.outbox to jewelshot_ledger using (true) with check (true);
create policy outbox_worker on app.outbox to jewelshot_worker using (true) with check (true);
create policy outbox_admin on app.outbox for select to jewelshot_admin
  using ((select app.is_admin()));

create policy dead_letters_writer on app.dead_letters to jewelshot_ledger
  using (true) with check (true);
create policy dead_letters_worker on app.dead_letters for select to jewelshot_worker using (true);
create policy dead_letters_admin on app.dead_letters for select to jewelshot_admin
  using ((select app.is_admin()));

create policy schedules_writer on app.schedules to jewelshot_ledger using (true) with check (true);
create policy schedules_worker on app.schedules for select to jewelshot_worker using (true);
create policy schedules_admin on app.schedules for select to jewelshot_admin
  using ((select app.is_admin()));

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

create policy audit_log_writer on app.audit_log to jewelshot_ledger using (true) with check (true);
create policy audit_log_admin on app.audit_log for select to jewelshot_admin
  using ((select app.is_admin()));

create policy idempotency_keys_writer on app.idempotency_keys to jewelshot_ledger
  using (true) with check (true);
create policy idempotency_keys_worker on app.idempotency_keys to jewelshot_worker using (true);

-- What an earlier request with this key answered, or null: then the caller holds the key until
-- its transaction ends. An answer that exists is read without the lock, so that those who were
-- told to come back do not turn each other away. Locks: one advisory lock, tried, never waited
-- for. Errors: JS401, JS431 (being executed now), JS432 (another body).
create function app.idempotency_begin(p_route text, p_key text, p_body_sha256 bytea)
  returns jsonb
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_stored app.idempotency_keys;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  for v_look in 1..2 loop
    select *
    into v_stored
    from app.idempotency_keys
    where user_id = v_user_id
      and route = p_route
      and key = p_key
      and expires_at > now();
    exit when found or v_look = 2;
    if not pg_try_advisory_xact_lock(
      hashtextextended(v_user_id || ' ' || p_route || ' ' || p_key, 0))
    then
      raise exception 'the same request is being executed'
        using errcode = 'JS431', detail = '{"retry_after_seconds": 1}';
    end if;
    -- Whoever held the lock may have committed since the first look.
  end loop;
  if v_stored.user_id is null then
    return null;
  end if;
  if v_stored.body_sha256 <> p_body_sha256 then
    raise exception 'idempotency key used with another body' using errcode = 'JS432';
  end if;
  return jsonb_build_object('status', v_stored.status, 'response', v_stored.response);
end $$;

-- Keeps a 2xx answer for 24 hours, in the transaction of its effect. Errors: JS401.
create function app.idempotency_store(
  p_route text, p_key text, p_body_sha256 bytea, p_status integer, p_response jsonb
)
  returns void
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_user_id uuid := app.current_user_id();
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  delete from app.idempotency_keys
  where user_id = v_user_id
    and route = p_route
    and key = p_key
    and expires_at <= now();
  insert into app.idempotency_keys (user_id, route, key, body_sha256, status, response)
  values (v_user_id, p_route, p_key, p_body_sha256, p_status, p_response);
end $$;

-- Writes a task and returns its id; with a dedupe key at most one is live, and its id returns.
-- It belongs to the request that is being served, or to the one that its provider call serves.
create function app.add_task(
  p_job text, p_args jsonb, p_queue text default 'default', p_dedupe_key text default null,
  p_delay_seconds double precision default 2, p_id uuid default gen_random_uuid()
)
  returns uuid
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_id uuid;
begin
  insert into app.outbox (id, queue, job, args, due_at, dedupe_key, request_id)
  values (p_id, p_queue, p_job, p_args, now() + make_interval(secs => p_delay_seconds),
    p_dedupe_key, coalesce(
      nullif(current_setting('app.request_id', true), ''),
      (
        select generation.request_id
        from app.provider_calls as call
        join app.generations as generation on generation.id = call.generation_id
        where call.id = (p_args ->> 'call_id')::uuid
      )))
  on conflict do nothing
  returning id into v_id;
  if v_id is null then
    select id
    into v_id
    from app.outbox
    where id = p_id
      or (job = p_job and dedupe_key = p_dedupe_key);
  end if;
  return v_id;
end $$;

-- Deletes a task whose lease the caller holds. Errors: JS430 when the lease was lost.
-- A null token is a caller that works without a task (a sweep): nothing to complete.
create function app.complete_task(p_lease_token uuid)
  returns void
  language plpgsql
  security definer
  set search_path = ''
as $$
begin
  if p_lease_token is null then
    return;
  end if;
  delete from app.outbox
  where lease_token = p_lease_token;
  if not found then
    raise exception 'lease lost' using errcode = 'JS430';
  end if;
end $$;

create unique index outbox_lease_token on app.outbox (lease_token) where lease_token is not null;

-- Issues a task for each schedule that is due; processes share them by skip locked.
create function app.issue_scheduled_tasks()
  returns integer
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_schedule app.schedules;
  v_issued integer := 0;
begin
  for v_schedule in
    select *
    from app.schedules
    where next_due_at <= now()
    order by name
    for update skip locked
  loop
    perform app.add_task(v_schedule.job, '{}', 'background', v_schedule.name, 0);
    update app.schedules
    set next_due_at = now() + make_interval(secs => every_seconds), last_issued_at = now()
    where name = v_schedule.name;
    v_issued := v_issued + 1;
  end loop;
  return v_issued;
end $$;

-- One line in the audit log, in the words of the claims: who, or the break-glass key.
create function app.write_audit(p_action text, p_target text, p_detail jsonb)
  returns void
  language sql
  security definer
  set search_path = ''
as $$
  insert into app.audit_log (actor, action, target, detail)
  select coalesce(
      app.claims() ->> 'sub',
      case when app.claims() ->> 'break_glass' = 'true' then 'break-glass' else 'system' end),
    p_action, p_target, p_detail
$$;

grant create on schema app to jewelshot_ledger;
alter function app.idempotency_begin(text, text, bytea) owner to jewelshot_ledger;
alter function app.idempotency_store(text, text, bytea, integer, jsonb) owner to jewelshot_ledger;
alter function app.add_task(text, jsonb, text, text, double precision, uuid)
  owner to jewelshot_ledger;
alter function app.complete_task(uuid) owner to jewelshot_ledger;
alter function app.issue_scheduled_tasks() owner to jewelshot_ledger;
alter function app.write_audit(text, text, jsonb) owner to jewelshot_ledger;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.idempotency_begin(text, text, bytea),
  app.idempotency_store(text, text, bytea, integer, jsonb)
  to authenticated;
grant execute on function app.issue_scheduled_tasks() to jewelshot_worker;
