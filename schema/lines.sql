-- Who waits for a turn: one row for each person or endpoint that waits in a line, so that serving
-- the next one costs the same whether ten wait or ten thousand.
-- after: base

-- Whoever adds an item calls join_line after the item is written. Who serves calls take_turn, then
-- looks for that key's next item by a partial index and skip locked, then calls end_turn with the
-- time at which what is left may be served, or null when nothing is. Each is a statement of its
-- own, in a function that is volatile: the look must see what was committed before the lock.
-- Then no item is missed: who joins waits for the one who serves, and the other way round.
create table app.lines (
  line text not null,
  key uuid not null,  -- a person's or an endpoint's
  serve_at timestamptz not null,
  -- Where items are numbered: none of the key below first_no waits, and a new one is last_no + 1.
  first_no bigint,
  last_no bigint,
  primary key (line, key)
);
create index lines_serve_at on app.lines (line, serve_at);

-- What a line is like at present, for whoever is told about their place: refreshed every few
-- seconds by a worker, so that nobody's request counts a line.
create table app.line_figures (
  line text primary key,
  keys bigint not null,  -- how many wait
  seconds_per_turn double precision,  -- null while nobody is served
  refreshed_at timestamptz not null
);

alter table app.lines enable row level security;
alter table app.lines force row level security;
alter table app.line_figures enable row level security;
alter table app.line_figures force row level security;

revoke all on app.lines, app.line_figures from public, anon, authenticated, service_role;

grant select, insert, update, delete on app.lines to jewelshot_ledger;
grant select, insert, update on app.line_figures to jewelshot_ledger;
grant select on app.lines, app.line_figures to jewelshot_worker, jewelshot_admin;

create policy lines_writer on app.lines to jewelshot_ledger using (true) with check (true);
create policy lines_worker on app.lines for select to jewelshot_worker using (true);
create policy lines_admin on app.lines for select to jewelshot_admin
  using ((select app.is_admin()));
create policy line_figures_writer on app.line_figures to jewelshot_ledger
  using (true) with check (true);
create policy line_figures_worker on app.line_figures for select to jewelshot_worker using (true);
create policy line_figures_admin on app.line_figures for select to jewelshot_admin
  using ((select app.is_admin()));

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.join_line(
  p_line text, p_key uuid, p_serve_at timestamptz,
  p_first_no bigint default null, p_last_no bigint default null
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into app.lines (line, key, serve_at, first_no, last_no)
  values (p_line, p_key, p_serve_at, p_first_no, p_last_no)
  on conflict (line, key) do update
  set serve_at = least(lines.serve_at, excluded.serve_at),
    first_no = least(lines.first_no, excluded.first_no),
    last_no = greatest(lines.last_no, excluded.last_no)
  where excluded.serve_at < lines.serve_at
    or excluded.first_no < coalesce(lines.first_no, excluded.first_no + 1)
    or excluded.last_no > coalesce(lines.last_no, excluded.last_no - 1);
end $$;
comment on function app.join_line is
$$Items of the key wait in the line from now on, to be served at p_serve_at at the earliest; the
numbers are theirs, where a line numbers its items. A key that is there already keeps its place, or
comes forward. Called after the items are written: the row is locked even where nothing changes, so
that who serves the key at this moment has ended, or begins after the commit.
Locks: the line's row, which comes last. Replay: the same row.$$;

create function app.take_turn(p_line text)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_sort = off
  set enable_seqscan = off
  set enable_bitmapscan = off
as $$
declare
  v_now timestamptz := app.clock_now();
  v_key uuid;
begin
  select key
  into v_key
  from app.lines
  where line = p_line
    and serve_at <= v_now
  order by serve_at
  limit 1
  for update skip locked;
  return v_key;
end $$;
comment on function app.take_turn is
$$The key that has waited longest in a line for its turn; null when nobody may be served now.
Statistics from an hour in which nobody waited would let the planner read and sort the whole line:
hence only the index in its own order. Locks: the line's row by skip locked, so it waits for nobody.$$;

create function app.end_turn(
  p_line text, p_key uuid, p_next_at timestamptz, p_first_no bigint default null
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
as $$
begin
  if p_next_at is null then
    delete from app.lines
    where line = p_line
      and key = p_key;
  else
    update app.lines
    set serve_at = greatest(p_next_at, app.clock_now()),
      first_no = coalesce(p_first_no, first_no)
    where line = p_line
      and key = p_key;
  end if;
end $$;
comment on function app.end_turn is
$$The key goes to the end of the line, or to the time at which its next item may be served, if
that is later; null: nothing of it waits, so it leaves. p_first_no: none of its numbered items below
that one waits. Expects the lock of take_turn.$$;

reset role;
revoke create on schema app from jewelshot_ledger;
