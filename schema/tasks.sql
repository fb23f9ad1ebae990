-- Later work: the outbox, what it could not do, and schedules.
-- after: base, audit

-- A row is written with the change that wants it. The task is done when its row is deleted: in the
-- transaction of its effect, or by the runner. Redis carries only the id, and may be lost at any
-- time.
create table app.outbox (
  id uuid primary key default gen_random_uuid(),
  job text not null,
  args jsonb not null default '{}',
  dedupe_key text,
  due_at timestamptz not null default app.now(),
  wanted integer not null default 1,  -- how often it was added; it is done when all of these were claimed
  claimed integer not null default 0,  -- what `wanted` was at the claim
  claims integer not null default 0,  -- since the last release: many mean that workers die of it
  failures jsonb not null default '{}',  -- how often it failed, by kind of failure
  lease_token uuid,
  lease_until timestamptz,
  last_error text,
  request_id text,
  created_at timestamptz not null default app.now(),
  constraint outbox_lease check ((lease_token is null) = (lease_until is null))
);
create unique index outbox_only_one_live on app.outbox (job, dedupe_key)
  where dedupe_key is not null;
create index outbox_due on app.outbox (due_at);
create unique index outbox_lease_token on app.outbox (lease_token) where lease_token is not null;

create table app.dead_letters (
  id uuid primary key default gen_random_uuid(),
  task_id uuid not null,
  job text not null,
  args jsonb not null,
  dedupe_key text,
  claims integer not null,
  failures jsonb not null,
  error text not null,
  request_id text,
  created_at timestamptz not null,
  died_at timestamptz not null default app.now(),
  replayed_at timestamptz,
  replayed_as uuid,  -- the task that it became again
  constraint dead_letters_replayed check ((replayed_at is null) = (replayed_as is null))
);
create index dead_letters_died_at on app.dead_letters (died_at desc);

create table app.schedules (
  name text primary key,
  job text not null,
  every_seconds integer not null,
  next_due_at timestamptz not null default app.now(),
  last_issued_at timestamptz,
  constraint schedules_every_positive check (every_seconds > 0)
);

alter table app.outbox enable row level security;
alter table app.outbox force row level security;
alter table app.dead_letters enable row level security;
alter table app.dead_letters force row level security;
alter table app.schedules enable row level security;
alter table app.schedules force row level security;

revoke all on
  app.outbox, app.dead_letters, app.schedules
  from public, anon, authenticated, service_role;

grant select, insert, update, delete on app.outbox to jewelshot_ledger;
grant select, insert, delete, update (replayed_at, replayed_as)
  on app.dead_letters to jewelshot_ledger;
grant select on app.schedules to jewelshot_ledger;
grant update (next_due_at, last_issued_at) on app.schedules to jewelshot_ledger;
-- The worker leases and reschedules tasks itself.
grant select,
  update (due_at, claimed, claims, failures, lease_token, lease_until, last_error)
  on app.outbox to jewelshot_worker;
grant select on app.dead_letters, app.schedules to jewelshot_worker;
grant select on app.dead_letters, app.schedules, app.outbox to jewelshot_admin;

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

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.note_wakeup(p_task_id uuid, p_job text)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_noted text := coalesce(current_setting('app.wakeups', true), '');
  v_entry text := p_job || ':' || p_task_id;
begin
  if length(v_noted) - length(replace(v_noted, ':', '')) >= 32 then
    v_entry := p_job;
    if v_entry = any (string_to_array(v_noted, ' ')) then
      return;
    end if;
  end if;
  perform set_config('app.wakeups', ltrim(v_noted || ' ' || v_entry), true);
end $$;
comment on function app.note_wakeup is
$$Notes that a task should be woken when this transaction has been committed: in the setting
app.wakeups, which ends with the transaction, as `job:task` with spaces between; after 32 tasks
only their jobs' names. Who runs the transaction reads it with COMMIT and wakes afterwards.$$;

create function app.add_task(
  p_job text, p_args jsonb, p_dedupe_key text default null,
  p_delay_seconds double precision default 2
)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid;
begin
  insert into app.outbox (job, args, dedupe_key, due_at, request_id)
  values (p_job, p_args, p_dedupe_key,
    app.now() + make_interval(secs => p_delay_seconds),
    coalesce(
      nullif(current_setting('app.request_id', true), ''),
      (
        select generation.request_id
        from app.provider_calls as call
        join app.generations as generation on generation.id = call.generation_id
        where call.id = (p_args ->> 'call_id')::uuid
      )))
  on conflict (job, dedupe_key) where dedupe_key is not null do update
  set wanted = outbox.wanted + 1,
    due_at = least(outbox.due_at, excluded.due_at)
  returning id into v_id;
  if p_delay_seconds <= 2 then
    perform app.note_wakeup(v_id, p_job);
  end if;
  return v_id;
end $$;
comment on function app.add_task is
$$Writes a task and returns its id; with a dedupe key at most one is live. One that is live is
wanted once more, at the earlier of both times: it runs again if it runs already, and is done only
when a claim has seen all that was wanted. With up to two seconds of delay it is woken, and the
relay waits that long for the wake-up; a task that is due later is not woken. To which queue it is
sent says its job (core/tasks/queues.py).
It belongs to the request that is being served, or to the one that its provider call serves.
Locks: the task, whose row others who add the same one wait for: so it comes last.$$;

create function app.end_task(p_lease_token uuid)
  returns boolean
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid;
  v_job text;
begin
  delete from app.outbox
  where lease_token = p_lease_token
    and wanted = claimed;
  if found then
    return true;
  end if;
  update app.outbox
  set lease_token = null,
    lease_until = null,
    due_at = app.now(),
    claims = 0,
    failures = '{}'
  where lease_token = p_lease_token
  returning id, job into v_id, v_job;
  if not found then
    return false;
  end if;
  perform app.note_wakeup(v_id, v_job);
  return true;
end $$;
comment on function app.end_task is
$$Ends a task whose lease the caller holds: deletes it, or gives it back, due now, when it was
wanted again since the claim. False when there is no such lease: it has ended, or was lost.
Locks: the task.$$;

create function app.complete_task(p_lease_token uuid)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if p_lease_token is null then
    return;
  end if;
  if not app.end_task(p_lease_token) then
    raise exception 'lease lost' using errcode = 'JS430';
  end if;
  perform set_config('app.wakeups',
    ltrim(coalesce(current_setting('app.wakeups', true), '') || ' ended:' || p_lease_token), true);
end $$;
comment on function app.complete_task is
$$Ends a task in the transaction of its effect, and notes that it did beside the wake-ups, so that
the runner need not ask. A null token is a caller that works without a task (a sweep): nothing to
complete. Locks: the task. Errors: JS430 when the lease was lost.$$;

create function app.issue_scheduled_tasks()
  returns integer
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_schedule app.schedules;
  v_issued integer := 0;
begin
  for v_schedule in
    select *
    from app.schedules
    where next_due_at <= app.now()
    order by name
    for update skip locked
  loop
    perform app.add_task(v_schedule.job, '{}', v_schedule.name, 0);
    update app.schedules
    set next_due_at = app.now() + make_interval(secs => every_seconds), last_issued_at = app.now()
    where name = v_schedule.name;
    v_issued := v_issued + 1;
  end loop;
  return v_issued;
end $$;
comment on function app.issue_scheduled_tasks is
$$Issues a task for each schedule that is due; processes share them by skip locked.$$;

create function app.dead_letter_task(p_lease_token uuid, p_error text)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_letter_id uuid;
begin
  insert into app.dead_letters (
    task_id, job, args, dedupe_key, claims, failures, error, request_id, created_at
  )
  select id, job, args, dedupe_key, claims, failures, left(p_error, 4000), request_id,
    created_at
  from app.outbox
  where lease_token = p_lease_token
  returning id into v_letter_id;
  perform app.complete_task(p_lease_token);
  return v_letter_id;
end $$;
comment on function app.dead_letter_task is
$$Makes a dead letter of a task that cannot be done, with its dedupe key, and ends the task; what
was wanted of it meanwhile runs again. Its subject has been ended by the caller, in the same
transaction. Returns the letter's id. Locks: the task. Errors: JS430 when the lease was lost.$$;

create function app.replay_dead_letter(p_id uuid)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_letter app.dead_letters;
  v_task_id uuid;
begin
  perform app.require_admin();
  select *
  into v_letter
  from app.dead_letters
  where id = p_id
  for no key update;
  if not found then
    raise exception 'no such dead letter'
      using errcode = 'JS404', detail = '{"kind": "dead_letter"}';
  end if;
  if v_letter.replayed_as is not null then
    return v_letter.replayed_as;
  end if;
  v_task_id := app.add_task(
    v_letter.job, v_letter.args, coalesce(v_letter.dedupe_key, 'replay:' || p_id));
  update app.dead_letters
  set replayed_at = app.now(), replayed_as = v_task_id
  where id = p_id;
  perform app.write_audit(
    'dead_letter.replay', p_id::text, jsonb_build_object('job', v_letter.job));
  return v_task_id;
end $$;
comment on function app.replay_dead_letter is
$$Adds the task of a dead letter again and returns its id. Admins only; audited.
Locks: the letter, the task. Errors: JS403, JS404.
Replay: a letter that was replayed returns the same id and makes nothing new; a task that is live
again stays one task.$$;

create function app.purge_dead_letters(p_limit integer)
  returns integer
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_purged integer;
begin
  delete from app.dead_letters
  where id in (
    select id
    from app.dead_letters
    where died_at < app.now() - interval '90 days'
      and (replayed_at is not null or died_at < app.now() - interval '365 days')
    order by died_at
    limit p_limit
  );
  get diagnostics v_purged = row_count;
  return v_purged;
end $$;
comment on function app.purge_dead_letters is
$$Deletes letters that were replayed, 90 days after their task died, and those that nobody replayed
after a year: what they were for has ended in any case. Returns how many.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.purge_dead_letters(integer),
  app.end_task(uuid),
  app.issue_scheduled_tasks(),
  app.dead_letter_task(uuid, text)
  to jewelshot_worker;
grant execute on function app.replay_dead_letter(uuid) to jewelshot_admin;
