-- Way back of tmp functions

set local lock_timeout = '5s';
set local statement_timeout = '60s';

drop function app.request_return(uuid,uuid,bigint,text,boolean);

-- tables
alter table app.payment_returns drop column credits;
alter table app.payment_terms drop column buyer_returns_per_month;

set local check_function_bodies = off;
grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.request_return(
  p_return_id uuid, p_order_id uuid, p_credits bigint, p_reason text
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_days integer;
  v_order app.orders;
  v_unused bigint;
  v_target numeric;
  v_returned bigint;
begin
  perform app.lock_account(v_user_id);
  if exists (select from app.payment_returns where id = p_return_id and user_id = v_user_id) then
    return;
  end if;
  v_order := app.returnable_order(p_order_id, v_user_id);
  select return_days into v_days from app.payment_terms;
  if v_order.paid_at is null then
    raise exception 'in review' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', 'in_review', 'state', v_order.state)::text;
  end if;
  if v_order.paid_at < app.now() - make_interval(days => v_days) then
    raise exception 'too late' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', 'time_over', 'refund_days', v_days)::text;
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
end $$;
comment on function app.request_return is
$$The buyer gives unused credits of an order back; p_credits null is all of them. They leave the
balance now, so that they cannot be spent while the provider works; a refused return restores them.
Locks: account, order, lots. Errors: JS401, JS404, JS409 {reason}, JS422 {field, reason}.
Replay: the same return id does nothing more.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function app.request_return(uuid, uuid, bigint, text) to jewelshot_user;
