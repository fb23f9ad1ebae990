-- Place in line and expected time: figures that a worker refreshes, and a sweep of places.

create table app.line_figures (
  line text primary key,
  keys bigint not null,
  seconds_per_turn double precision,
  refreshed_at timestamptz not null
);
create table app.run_figures (
  operation text not null,
  version integer not null,
  run_seconds double precision not null,
  refreshed_at timestamptz not null,
  primary key (operation, version),
  foreign key (operation, version) references app.operations (slug, version) on delete cascade
);

alter table app.line_figures enable row level security;
alter table app.line_figures force row level security;
alter table app.run_figures enable row level security;
alter table app.run_figures force row level security;

revoke all on app.line_figures, app.run_figures from public, anon, authenticated, service_role;

grant select, insert, update on app.line_figures, app.run_figures to jewelshot_ledger;
grant select on app.line_figures, app.run_figures to jewelshot_worker, jewelshot_admin;

create policy line_figures_writer on app.line_figures to jewelshot_ledger
  using (true) with check (true);
create policy line_figures_worker on app.line_figures for select to jewelshot_worker using (true);
create policy line_figures_admin on app.line_figures for select to jewelshot_admin
  using ((select app.is_admin()));
create policy run_figures_writer on app.run_figures to jewelshot_ledger
  using (true) with check (true);
create policy run_figures_worker on app.run_figures for select to jewelshot_worker using (true);
create policy run_figures_admin on app.run_figures for select to jewelshot_admin
  using ((select app.is_admin()));

insert into app.schedules (name, job, every_seconds)
values ('generations.mend_lines', 'generations.mend_lines', 60);

set local lock_timeout = '5s';
set local statement_timeout = '60s';

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.generation_outlook(p_id uuid)
  returns jsonb
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select app.outlook_of(generation)
  from app.generations as generation
  where id = p_id
    and user_id = app.current_user_id()
$$;

create or replace function app.mend_lines()
  returns integer
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_mended integer;
begin
  perform app.join_line(
    waiting.line, waiting.user_id, waiting.serve_at, waiting.first_no, waiting.last_no)
  from (
    select line, user_id, min(available_at) as serve_at, min(line_no) as first_no,
      max(line_no) as last_no
    from app.generations
    where line is not null
    group by line, user_id
  ) as waiting
  where not exists (
    select
    from app.lines as place
    where place.line = waiting.line
      and place.key = waiting.user_id
      and place.serve_at <= greatest(waiting.serve_at, app.now())
      and coalesce(place.first_no <= waiting.first_no, waiting.first_no is null))
  order by waiting.line, waiting.user_id;
  get diagnostics v_mended = row_count;
  return v_mended;
end $$;

create or replace function app.outlook_of(p_generation app.generations)
  returns jsonb
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_run_seconds double precision;
  v_own bigint;
  v_keys bigint;
  v_turn_seconds double precision;
begin
  if p_generation.finished_at is not null or p_generation.held_at is not null then
    return null;
  end if;
  select coalesce(figures.run_seconds, (
    select sum((step ->> 'typical_seconds')::double precision)
    from jsonb_array_elements(operation.steps) as step))
  into v_run_seconds
  from app.operations as operation
  left join app.run_figures as figures
    on figures.operation = operation.slug and figures.version = operation.version
  where operation.slug = p_generation.operation
    and operation.version = p_generation.operation_version;
  if p_generation.line is null then
    return jsonb_build_object(
      'expected_at', greatest(
        app.now(),
        coalesce(p_generation.started_at, app.now()) + make_interval(secs => v_run_seconds)));
  end if;
  select greatest(1, coalesce(p_generation.line_no - place.first_no + 1, 1))
  into v_own
  from app.lines as place
  where place.line = p_generation.line
    and place.key = p_generation.user_id;
  select keys, seconds_per_turn
  into v_keys, v_turn_seconds
  from app.line_figures
  where line = p_generation.line;
  v_own := coalesce(v_own, 1) * greatest(coalesce(v_keys, 1), 1);
  return jsonb_build_object(
    'place_in_line', v_own,
    'expected_at',
      app.now() + make_interval(secs => v_own * v_turn_seconds + v_run_seconds));
end $$;

create or replace function app.refresh_outlook(p_every_seconds double precision)
  returns boolean
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if not pg_try_advisory_xact_lock(x'6f75746c6f6f6b'::bigint) or exists (
    select
    from app.line_figures
    where refreshed_at > app.now() - make_interval(secs => p_every_seconds)
  ) then
    return false;
  end if;
  insert into app.line_figures (line, keys, seconds_per_turn, refreshed_at)
  select waiting.line, waiting.keys,
    -- Of four turns that do not go on with what has begun, one is the batch line's.
    pace.call_seconds / nullif(pace.slots, 0) * case
      when waiting.kind = 'interactive' and waiting.batch_keys > 0 then 4 / 3.0
      when waiting.kind = 'batch' and waiting.interactive_keys > 0 then 4
      else 1 end,
    app.now()
  from (
    select account.provider,
      sum(account.slots) filter (
        where account.breaker_state = 'closed'
          and exists (
            select
            from app.provider_keys
            where account_id = account.id
              and refused_at is null)) as slots,
      coalesce(
        (
          select percentile_cont(0.5) within group (
            order by extract(epoch from call.ended_at - call.created_at))
          from app.provider_accounts as of_provider
          cross join lateral (
            select state, created_at, ended_at
            from app.provider_calls
            where account_id = of_provider.id
              and ended_at is not null
            order by ended_at desc
            limit 100
          ) as call
          where of_provider.provider = account.provider
            and call.state = 'succeeded'),
        (
          select avg((step ->> 'typical_seconds')::double precision)
          from app.operations
          cross join jsonb_array_elements(steps) as step
          where is_active
            and step ->> 'provider' = account.provider)) as call_seconds
    from app.provider_accounts as account
    group by account.provider
  ) as pace
  cross join lateral (
    select kind.name as kind, kind.name || ':' || pace.provider as line, counted.keys,
      sum(counted.keys) filter (where kind.name = 'batch') over () as batch_keys,
      sum(counted.keys) filter (where kind.name = 'interactive') over () as interactive_keys
    from unnest(array['begun', 'interactive', 'batch']) as kind (name)
    cross join lateral (
      select count(*) as keys
      from app.lines
      where line = kind.name || ':' || pace.provider
    ) as counted
  ) as waiting
  order by waiting.line
  on conflict (line) do update
  set keys = excluded.keys,
    seconds_per_turn = excluded.seconds_per_turn,
    refreshed_at = excluded.refreshed_at;
  insert into app.run_figures (operation, version, run_seconds, refreshed_at)
  select operation, operation_version,
    percentile_cont(0.5) within group (order by extract(epoch from finished_at - started_at)),
    app.now()
  from (
    select operation, operation_version, state, started_at, finished_at
    from app.generations
    where finished_at is not null
    order by finished_at desc
    limit 500
  ) as recent
  where state = 'succeeded'
    and started_at is not null
  group by operation, operation_version
  order by operation, operation_version
  on conflict (operation, version) do update
  set run_seconds = excluded.run_seconds,
    refreshed_at = excluded.refreshed_at;
  return true;
end $$;

comment on function app.generation_outlook is
$$app.outlook_of one of the caller's own generations.$$;

comment on function app.mend_lines is
$$Whoever has something that waits and no place in its line, or one that passes it over, gets a
place. Nothing in the product leaves such a thing behind; rows that were changed by hand may.
Reads everything that waits: 40 ms with 100,000 (2026-11-28). Returns how many.
Locks: the lines' rows in their order.$$;

comment on function app.outlook_of is
$$What can be said of a generation that has not ended: {place_in_line, expected_at}, both about. The
place is its own among its owner's, times the people who wait, because people take turns; the time
is that of the place, at the line's present pace, and half of the last runs' own. expected_at is
null while nobody is served, and the whole for what is held or has ended. Counts nothing.$$;

comment on function app.refresh_outlook is
$$What people are told about the lines and about how long runs take, from what waits now and from
the last runs. One process at a time, and not more often than asked; false when it was not due.
Lines are counted here and nowhere else.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

create or replace function app.prove_generations()
  returns table (check_name text, table_name text, row_id text, detail jsonb)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set row_security = off
as $$
  select 'generation_money', 'generations', generation.id::text, jsonb_build_object(
    'state', generation.state, 'cost_credits', generation.cost_credits,
    'charged_credits', generation.charged_credits, 'reservation_state', reservation.state,
    'reservation_amount', reservation.amount, 'confirmed_amount', reservation.confirmed_amount)
  from app.generations as generation
  left join app.reservations as reservation
    on reservation.subject_id = generation.id and reservation.purpose = 'run'
  where reservation.user_id is distinct from generation.user_id
    or reservation.amount is distinct from generation.cost_credits
    or reservation.confirmed_amount is distinct from case generation.state
      when 'succeeded' then generation.cost_credits when 'failed' then 0
      when 'cancelled' then app.cancel_share(generation) end
    or generation.charged_credits is distinct from reservation.confirmed_amount

  union all
  select 'reservation_subject', 'reservations', reservation.id::text, jsonb_build_object(
    'subject_id', reservation.subject_id, 'created_at', reservation.created_at)
  from app.reservations as reservation
  where reservation.purpose = 'run'
    and not exists (select from app.generations where id = reservation.subject_id)

  union all
  select 'reservation_overdue', 'reservations', reservation.id::text, jsonb_build_object(
    'subject_id', reservation.subject_id, 'wait_until', generation.wait_until,
    'deadline_at', generation.deadline_at)
  from app.reservations as reservation
  join app.generations as generation on generation.id = reservation.subject_id
  where reservation.state = 'pending'
    and generation.held_at is null
    and coalesce(
      coalesce(generation.deadline_at, generation.wait_until) < app.now() - interval '5 minutes',
      true)

  union all
  select 'generation_out_of_line', 'generations', min(generation.id::text), jsonb_build_object(
    'line', generation.line, 'user_id', generation.user_id, 'waiting', count(*),
    'serve_at', place.serve_at)
  from app.generations as generation
  left join app.lines as place on place.line = generation.line and place.key = generation.user_id
  where generation.line is not null
  group by generation.line, generation.user_id, place.serve_at, place.first_no
  having coalesce(
      place.serve_at > greatest(min(generation.available_at), app.now()) + interval '1 minute',
      true)
    or place.first_no > min(generation.line_no)
$$;

create or replace function app.start_answer(p_generation app.generations)
  returns jsonb
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'version', p_generation.version,
    'operation_version', p_generation.operation_version,
    'lane', p_generation.lane,
    'cost_credits', p_generation.cost_credits,
    'created_at', p_generation.created_at,
    'wait_until', p_generation.wait_until,
    'deadline_at', app.latest_end(p_generation),
    'outlook', app.outlook_of(p_generation));
end $$;

comment on function app.start_answer is
$$The terms under which a generation was taken, and its outlook.$$;

grant execute on function app.generation_outlook(uuid) to jewelshot_user;

grant execute on function app.mend_lines() to jewelshot_worker;

grant execute on function app.refresh_outlook(double precision) to jewelshot_worker;
