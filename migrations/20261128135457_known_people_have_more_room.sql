-- Whom an admin gave credits is known, as a buyer is, when unpaid work is bounded.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.require_paid_work(p_user_id uuid)
  returns void
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_used bigint;
  v_terms app.unpaid_terms;
  v_limit bigint;
  v_paid bigint;
  v_free_at timestamptz;
begin
  -- Of most people nothing failed today: one look into an index, and no call.
  if not exists (
    select
    from app.generations
    where user_id = p_user_id
      and finished_at > app.now() - interval '1 day'
      and state in ('failed', 'cancelled')
  ) then
    return;
  end if;
  select coalesce(sum(credits), 0) into v_used from app.unpaid_work(p_user_id);
  if v_used = 0 then
    return;
  end if;
  select * into v_terms from app.unpaid_terms;
  select case when count(*) > 0 then v_terms.buyer_credits_per_day
      else v_terms.credits_per_day end,
    coalesce(sum(orders.credits - orders.credits_reversed) filter (
      where orders.paid_at > app.now() - interval '1 day'), 0)
  into v_limit, v_paid
  from app.credit_lots as lot
  left join app.orders on lot.idempotency_key = 'order:' || orders.id
  where lot.user_id = p_user_id
    and lot.source in ('purchase', 'adjustment')
    and (orders.id is null or (
      orders.amount_total > 0
      and orders.credits_reversed < orders.credits
      and orders.state not in ('disputed', 'charged_back')));
  select v_paid + coalesce(sum(charged_credits), 0)
  into v_paid
  from app.generations
  where user_id = p_user_id
    and created_at > app.now() - interval '4 days'
    and finished_at > app.now() - interval '1 day';
  if v_used < v_limit + v_paid then
    return;
  end if;
  select min(at) + interval '1 day'
  into v_free_at
  from (
    select finished_at as at, sum(credits) over (order by finished_at) as until_then
    from app.unpaid_work(p_user_id)
  ) as work
  where v_used - until_then < v_limit + v_paid;
  raise exception 'too much unpaid work'
    using errcode = 'JS429', detail = jsonb_build_object(
      'reason', 'unpaid_work', 'limit', v_limit, 'used', v_used,
      'retry_after_seconds', ceil(extract(epoch from v_free_at - app.now())))::text;
end $$;

comment on function app.require_paid_work is
$$Refuses another run while a person's unpaid work within a day is worth as much as the terms allow,
more for who bought credits or was given some by an admin. What was charged, and what was bought within the day, adds to it. So it goes
on when the day has passed, when something is paid, or when a run that is on its way succeeds.
Expects the lock of the account. Errors: JS429 {reason, limit, used, retry_after_seconds}.$$;

reset role;
revoke create on schema app from jewelshot_ledger;
