set local lock_timeout = '5s';
set local statement_timeout = '60s';

drop function app.generation_outlook(uuid);

drop function app.mend_lines();

drop function app.outlook_of(app.generations);

drop function app.refresh_outlook(double precision);

set local check_function_bodies = off;

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
  group by generation.line, generation.user_id, place.serve_at
  having coalesce(
    place.serve_at > greatest(min(generation.available_at), app.now()) + interval '1 minute', true)
$$;

create or replace function app.start_answer(p_generation app.generations)
  returns jsonb
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'version', p_generation.version,
    'operation_version', p_generation.operation_version,
    'lane', p_generation.lane,
    'cost_credits', p_generation.cost_credits,
    'created_at', p_generation.created_at,
    'wait_until', p_generation.wait_until,
    'deadline_at', app.latest_end(p_generation))
$$;

comment on function app.start_answer is
$$The terms under which a generation was taken.$$;

delete from app.schedules
where name = 'generations.mend_lines';
drop table app.run_figures;
drop table app.line_figures;
