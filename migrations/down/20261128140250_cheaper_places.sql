-- Way back of cheaper places

set local lock_timeout = '5s';
set local statement_timeout = '60s';

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.join_line(
  p_line text, p_key uuid, p_serve_at timestamptz,
  p_first_no bigint default null, p_last_no bigint default null
)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  insert into app.lines (line, key, serve_at, first_no, last_no)
  values (p_line, p_key, p_serve_at, p_first_no, p_last_no)
  on conflict (line, key) do update
  set serve_at = least(lines.serve_at, excluded.serve_at),
    first_no = least(lines.first_no, excluded.first_no),
    last_no = greatest(lines.last_no, excluded.last_no)
  where excluded.serve_at < lines.serve_at
    or excluded.first_no < coalesce(lines.first_no, excluded.first_no + 1)
    or excluded.last_no > coalesce(lines.last_no, excluded.last_no - 1)
$$;

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

reset role;
revoke create on schema app from jewelshot_ledger;

create or replace function app.choose_line()
  returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  if new.state <> 'queued' or new.held_at is not null or new.cancel_requested_at is not null then
    new.line := null;
    if new.state <> 'queued' then
      new.line_no := null;
    end if;
    return new;
  end if;
  select concat(
    case when new.started_at is not null then 'begun' when new.priority = 0 then 'interactive'
      else 'batch' end,
    ':', operation.steps -> new.step ->> 'provider')
  into new.line
  from app.operations as operation
  where operation.slug = new.operation
    and operation.version = new.operation_version;
  if new.available_at > app.now() then
    new.line_no := null;
  elsif tg_op = 'INSERT' and new.line_no is null then
    new.line_no := 1 + coalesce((
      select last_no
      from app.lines
      where line = new.line
        and key = new.user_id), 0);
  end if;
  return new;
end $$;

create or replace function app.latest_end(p_generation app.generations)
  returns timestamptz
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    p_generation.deadline_at,
    p_generation.wait_until + (
      select make_interval(secs => deadline_seconds)
      from app.operations
      where slug = p_generation.operation
        and version = p_generation.operation_version),
    p_generation.finished_at)
$$;
