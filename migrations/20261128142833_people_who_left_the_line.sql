-- A line is rid of people of whom nothing waits, however many: after an outage in which thousands of
-- orders ended in the line, new ones waited minutes behind them, eight at a ticket.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.take_from_line(p_line text)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_sort = off
  set enable_seqscan = off
  set enable_bitmapscan = off
as $$
declare
  v_now timestamptz;
  v_user_id uuid;
  v_first_no bigint;
  v_id uuid;
  v_is_over boolean;
  v_next_at timestamptz;
  v_in_vain integer := 0;
begin
  -- Whoever has nothing that waits any more leaves the line at their turn: after an outage
  -- thousands. Who stays though nothing could be served (others have it locked) comes again at once.
  for v_turn in 1..500 loop
    exit when v_in_vain = 8;
    v_user_id := app.take_turn(p_line);
    exit when v_user_id is null;
    v_now := app.clock_now();
    select first_no
    into v_first_no
    from app.lines
    where line = p_line
      and key = v_user_id;
    select id, coalesce(give_up_at, wait_until) <= v_now
    into v_id, v_is_over
    from app.generations
    where line = p_line
      and user_id = v_user_id
      and line_no is null
      and available_at <= v_now
    order by available_at
    limit 1
    for no key update skip locked;
    if v_id is null then
      select id, coalesce(give_up_at, wait_until) <= v_now
      into v_id, v_is_over
      from app.generations
      where line = p_line
        and user_id = v_user_id
        and line_no >= v_first_no
      order by line_no, id
      limit 1
      for no key update skip locked;
    end if;
    if v_is_over then
      update app.generations
      set line = null
      where id = v_id;
    end if;
    -- What else waits, also what others have locked.
    select line_no
    into v_first_no
    from app.generations
    where line = p_line
      and user_id = v_user_id
      and line_no >= v_first_no
      and id is distinct from v_id
    order by line_no, id
    limit 1;
    if found then
      v_next_at := v_now;
    else
      select available_at
      into v_next_at
      from app.generations
      where line = p_line
        and user_id = v_user_id
        and line_no is null
        and id is distinct from v_id
      order by available_at
      limit 1;
    end if;
    perform app.end_turn(p_line, v_user_id, v_next_at, v_first_no);
    if v_id is not null and not v_is_over then
      return v_id;
    end if;
    if v_next_at <= v_now then
      v_in_vain := v_in_vain + 1;
    end if;
  end loop;
  return null;
end $$;

comment on function app.take_from_line is
$$The generation that is served next in a line, locked, and its owner at the end of the line: of the
person whose turn it is what has had a turn before and may be tried again, otherwise the lowest
number. Null when nobody may be served. What is out of time leaves the line and waits for the
sweep; people of whom nothing waits leave it, up to 500 at once, so that after an outage nobody waits
behind them. Otherwise the cost depends neither on how many people wait nor on what each has waiting.
Locks: the line's row, then the generation, both by skip locked.$$;

reset role;
revoke create on schema app from jewelshot_ledger;
