-- Way back of an end by itself

set local lock_timeout = '5s';
set local statement_timeout = '60s';

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.sweep_deadlines(p_limit integer)
  returns setof jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_ids uuid[];
  v_id uuid;
  v_generation app.generations;
begin
  -- All of them before the first ends: an account that this transaction has changed meanwhile
  -- would be passed over like one that another has locked.
  select array_agg(locked.id)
  into v_ids
  from (
    select due.id
    from (
      (
        select id, user_id
        from app.generations
        where state in ('queued', 'submitting', 'running', 'collecting', 'uncertain')
          and coalesce(give_up_at, wait_until) <= app.now()
          and (state = 'queued' or (gave_up_at is null and give_up_at is not null)
            or deadline_at <= app.now())
        order by coalesce(give_up_at, wait_until)
        limit p_limit * 8
      )
      union
      (
        select id, user_id
        from app.generations
        where state = 'queued'
          and cancel_requested_at is not null
        limit p_limit * 8
      )
    ) as due
    join app.credit_accounts as account on account.user_id = due.user_id
    join app.generations as generation
      on generation.id = due.id and generation.finished_at is null
    -- Few people a round, so that there are others left for another process.
    order by due.user_id
    limit p_limit
    for no key update of account, generation skip locked
  ) as locked;
  foreach v_id in array coalesce(v_ids, '{}') loop
    select *
    into v_generation
    from app.generations
    where id = v_id
      and finished_at is null
    for no key update skip locked;
    if not found then
      continue;
    end if;
    -- Again, now that it is locked: its turn may have come meanwhile.
    if v_generation.deadline_at <= app.now()
      or (v_generation.state = 'queued' and (
        v_generation.cancel_requested_at is not null
        or coalesce(v_generation.give_up_at, v_generation.wait_until) <= app.now()))
    then
      return next app.finish_generation(
        v_generation.id, null,
        case when v_generation.cancel_requested_at is null then 'failed' else 'cancelled' end,
        jsonb_build_object(
          'call_id', case when v_generation.state <> 'queued' then v_generation.current_call_id end,
          'call', jsonb_build_object('state', 'abandoned', 'error_type', 'deadline'),
          'ending', case
            when v_generation.cancel_requested_at is not null then 'cancelled'
            when v_generation.wait_until is not null then 'waited_too_long'
            else 'deadline_exceeded' end));
      continue;
    end if;
    if v_generation.gave_up_at is not null
      or coalesce(v_generation.give_up_at > app.now(), true)
    then
      continue;
    end if;
    update app.generations
    set gave_up_at = app.now(),
      state = case when state in ('submitting', 'running') then 'uncertain' else state end
    where id = v_generation.id
    returning * into v_generation;
    perform app.add_task(
      'provider_call.cancel', jsonb_build_object('call_id', v_generation.current_call_id),
      v_generation.current_call_id::text, 0);
    return next app.generation_change(v_generation);
  end loop;
end $$;

comment on function app.sweep_deadlines is
$$Generations out of time, by the clock that runs. Waiting: it was never started, so it ends free.
Working, and not at the provider: failed and refunded. Working, and possibly at the provider:
cancelled there and uncertain, listening; at the deadline refunded, listening on for a late image. A
cancelled generation that fell back into the line ends here too.
Processes share them: whose account is locked, by another sweep or by a purchase, is passed over,
and as many again are looked through. The caller asks again until nothing changes.
Locks: accounts and generations by skip locked, then reservation, lots. Returns the changes.$$;

reset role;
revoke create on schema app from jewelshot_ledger;
