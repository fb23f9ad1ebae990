-- Deadlines are swept by all processes at once, in short transactions that wait for nobody.

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
  v_row record;
  v_generation app.generations;
begin
  for v_row in
    select due.id, due.user_id
    from (
      (
        select id, user_id
        from app.generations
        where state in ('queued', 'submitting', 'running', 'collecting', 'uncertain')
          and give_up_at <= app.now()
          and (gave_up_at is null or state = 'queued' or deadline_at <= app.now())
        order by give_up_at
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
    limit p_limit
    for no key update of account skip locked
  loop
    select *
    into v_generation
    from app.generations
    where id = v_row.id
      and finished_at is null
    for no key update skip locked;
    if not found then
      continue;
    end if;
    if v_generation.state = 'queued' or v_generation.deadline_at <= app.now() then
      return next app.finish_generation(
        v_generation.id, null,
        case when v_generation.cancel_requested_at is null then 'failed' else 'cancelled' end,
        jsonb_build_object(
          'call_id', case when v_generation.state <> 'queued' then v_generation.current_call_id end,
          'call', jsonb_build_object('state', 'abandoned', 'error_type', 'deadline'),
          'ending', case when v_generation.cancel_requested_at is null
            then 'deadline_exceeded' else 'cancelled' end));
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
$$Generations out of time. Never accepted: failed and refunded. Possibly accepted: cancelled at
the provider and uncertain, listening; at the deadline refunded, listening on for a late image.
A cancelled generation that fell back into the queue ends here too.
Processes share them: whose account is locked, by another sweep or by a purchase, is passed over,
and as many again are looked through. The caller asks again until nothing changes.
Locks: account by skip locked, reservation, lots, generation. Returns the changes.$$;

reset role;
revoke create on schema app from jewelshot_ledger;
