-- What happened, for records and for replay: one row an event, partitioned by month, kept 90 days.
-- Nobody follows it by a cursor; what must not be missed is written in the event's transaction.
-- Payloads hold ids, words and numbers: no address, no free text, no URL.

create table app.events (
  id uuid not null default gen_random_uuid(),
  user_id uuid not null references app.users (id) on delete restrict,
  type text not null,  -- noun.past_tense
  subject_id uuid,
  version bigint,  -- of the subject, after the event
  payload jsonb not null default '{}',
  created_at timestamptz not null default app.clock_now(),
  primary key (created_at, id),
  constraint events_type check (type ~ '^[a-z_]+\.[a-z_]+$')
) partition by range (created_at);
create index events_user on app.events (user_id, created_at desc, id desc);
create index events_subject on app.events (subject_id, version);

-- The safety net: what no month's partition takes. Months are made ahead by app.rotate_events.
create table app.events_default partition of app.events default;

alter table app.events enable row level security;
alter table app.events force row level security;
alter table app.events_default enable row level security;
alter table app.events_default force row level security;

revoke all on app.events, app.events_default from public, anon, authenticated, service_role;

grant select, insert on app.events to jewelshot_ledger;
grant select on app.events to jewelshot_user, jewelshot_worker, jewelshot_admin;

create policy events_writer on app.events to jewelshot_ledger using (true) with check (true);
create policy events_own on app.events for select to jewelshot_user
  using (user_id = (select app.current_user_id()));
create policy events_worker on app.events for select to jewelshot_worker using (true);
create policy events_admin on app.events for select to jewelshot_admin
  using ((select app.is_admin()));

create function app.rotate_events(p_months_ahead integer default 2, p_days_kept integer default 90)
  returns integer
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_month timestamp;
  v_from timestamptz;
  v_to timestamptz;
  v_name text;
  v_kept_from timestamptz := app.now() - make_interval(days => p_days_kept);
  v_changed integer := 0;
begin
  -- Two at once would make the same month; the second finds it made.
  perform pg_advisory_xact_lock(hashtextextended('app.rotate_events', 0));
  for v_month in
    select generate_series(
      date_trunc('month', app.now() at time zone 'utc'),
      date_trunc('month', app.now() at time zone 'utc') + make_interval(months => p_months_ahead),
      interval '1 month')
  loop
    v_name := 'events_' || to_char(v_month, 'YYYYMM');
    continue when to_regclass('app.' || v_name) is not null;
    v_from := v_month at time zone 'utc';
    v_to := (v_month + interval '1 month') at time zone 'utc';
    execute format('create table app.%I (like app.events including defaults including constraints)',
      v_name);
    execute format('alter table app.%I enable row level security', v_name);
    execute format('alter table app.%I force row level security', v_name);
    execute format('revoke all on app.%I from public, anon, authenticated, service_role', v_name);
    lock table app.events in share row exclusive mode;  -- nothing new meanwhile in the default
    execute format(
      'with moved as (
        delete from app.events_default
        where created_at >= %2$L and created_at < %3$L
        returning *
      )
      insert into app.%1$I
      select * from moved', v_name, v_from, v_to);
    execute format('alter table app.events attach partition app.%I for values from (%L) to (%L)',
      v_name, v_from, v_to);
    v_changed := v_changed + 1;
  end loop;
  for v_name in
    select child.relname
    from pg_inherits as link
    join pg_class as child on child.oid = link.inhrelid
    where link.inhparent = 'app.events'::regclass
      and child.relname ~ '^events_[0-9]{6}$'
      and ((to_date(right(child.relname, 6), 'YYYYMM') + interval '1 month') at time zone 'utc')
        <= v_kept_from
    order by child.relname
  loop
    execute format('drop table app.%I', v_name);
    v_changed := v_changed + 1;
  end loop;
  delete from app.events_default
  where created_at < v_kept_from;
  return v_changed;
end $$;
comment on function app.rotate_events is
$$Makes the partitions of this month and of those ahead, and drops those that are over their time.
What fell into the default partition moves to its month. Returns how many it made or dropped.
Owned by the migrating role, because partitions are tables of its own.
Locks: one advisory lock; app.events against writers while a month is made.
Replay: makes and drops nothing more.$$;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.emit(
  p_user_id uuid, p_type text, p_subject_id uuid, p_version bigint, p_payload jsonb
)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  insert into app.events (user_id, type, subject_id, version, payload)
  values (p_user_id, p_type, p_subject_id, p_version, coalesce(p_payload, '{}'))
$$;
comment on function app.emit is
$$One event, in the transaction of what happened. Locks: none of its own.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function app.rotate_events(integer, integer) to jewelshot_worker;

insert into app.schedules (name, job, every_seconds)
values ('events.rotate', 'events.rotate', 86400);
