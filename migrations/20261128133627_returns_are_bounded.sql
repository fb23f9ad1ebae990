-- A buyer's own returns of money are bounded, and two clicks are one.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

alter table app.payment_terms add column buyer_returns_per_month integer;
update app.payment_terms set buyer_returns_per_month = 6;
alter table app.payment_terms alter column buyer_returns_per_month set not null;
alter table app.payment_returns add column credits bigint;
-- It returns the return's id now: of a second click the first one's.
drop function app.request_return(uuid, uuid, bigint, text);
-- functions

set local lock_timeout = '5s';
set local statement_timeout = '60s';

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.request_return(
  p_return_id uuid, p_order_id uuid, p_credits bigint, p_reason text, p_is_distinct boolean
)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_terms app.payment_terms;
  v_known_id uuid;
  v_recent bigint;
  v_oldest_at timestamptz;
  v_order app.orders;
  v_unused bigint;
  v_target numeric;
  v_returned bigint;
begin
  perform app.lock_account(v_user_id);
  -- The same request, or its double: a click that comes while the first is not at the provider yet.
  select id
  into v_known_id
  from app.payment_returns
  where user_id = v_user_id
    and (id = p_return_id
      or (not p_is_distinct and order_id = p_order_id and origin = 'buyer'
        and state = 'requested' and credits = p_credits))
  order by id = p_return_id desc, created_at
  limit 1;
  if found then
    return v_known_id;
  end if;
  v_order := app.returnable_order(p_order_id, v_user_id);
  select * into v_terms from app.payment_terms;
  if v_order.paid_at is null then
    raise exception 'in review' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', 'in_review', 'state', v_order.state)::text;
  end if;
  if v_order.paid_at < app.now() - make_interval(days => v_terms.return_days) then
    raise exception 'too late' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', 'time_over', 'refund_days', v_terms.return_days)::text;
  end if;
  select count(*), min(created_at)
  into v_recent, v_oldest_at
  from (
    select created_at
    from app.payment_returns
    where user_id = v_user_id
      and origin = 'buyer'
      and state in ('requested', 'pending', 'requires_action', 'succeeded')
      and created_at > app.now() - interval '30 days'
    order by created_at desc
    limit v_terms.buyer_returns_per_month
  ) as recent;
  if v_recent >= v_terms.buyer_returns_per_month then
    raise exception 'too many returns' using errcode = 'JS429', detail = jsonb_build_object(
      'reason', 'returns_per_month', 'limit', v_terms.buyer_returns_per_month,
      'retry_after_seconds',
      ceil(extract(epoch from v_oldest_at + interval '30 days' - app.now())))::text;
  end if;
  -- Only the lot that the order itself paid, and no more than its money has not gone back for.
  select least(coalesce(sum(remaining), 0), v_order.credits - v_order.credits_reversed)
  into v_unused
  from app.credit_lots
  where user_id = v_user_id
    and source = 'purchase'
    and idempotency_key = 'order:' || p_order_id;
  if v_unused = 0 then
    raise exception 'nothing unused' using errcode = 'JS409',
      detail = '{"reason": "all_spent"}';
  end if;
  if p_credits not between 1 and v_unused then
    raise exception 'more than unused' using errcode = 'JS422', detail = jsonb_build_object(
      'field', 'credits', 'reason', 'more_than_unused', 'left', v_unused)::text;
  end if;
  -- The smallest amount of money that is worth so many credits, and never more than they are.
  v_target := v_order.credits_reversed + coalesce(p_credits, v_unused);
  v_returned := ceil(v_order.amount_total * v_target / v_order.credits);
  if v_order.credits * v_returned / v_order.amount_total > v_target then
    v_returned := floor(v_order.amount_total * v_target / v_order.credits);
  end if;
  if v_returned <= v_order.amount_returned then
    raise exception 'worth nothing' using errcode = 'JS422', detail =
      '{"field": "credits", "reason": "worth_nothing"}';
  end if;
  perform app.open_return(
    p_return_id, v_order, v_order.provider_payment_id, v_returned - v_order.amount_returned,
    'buyer', p_reason, null);
  update app.payment_returns
  set credits = p_credits
  where id = p_return_id;
  return p_return_id;
end $$;

comment on function app.request_return is
$$The buyer gives unused credits of an order back; p_credits null is all of them. They leave the
balance now, so that they cannot be spent while the provider works; a refused return restores them.
Returns the return's id. Locks: account, order, lots. Errors: JS401, JS404, JS409 {reason},
JS422 {field, reason}, JS429 {reason, limit, retry_after_seconds}: so many within 30 days.
Replay: the same return id does nothing more, nor does another one for as many credits of the order
while the first is not at the provider yet, unless p_is_distinct (the caller gave it a key of its own):
that is a second click, and it answers the first's id.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function app.request_return(uuid,uuid,bigint,text,boolean) to jewelshot_user;
