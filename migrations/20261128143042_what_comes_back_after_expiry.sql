-- what comes back after expiry: what it makes, and why

set local lock_timeout = '5s';
set local statement_timeout = '60s';

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.expiry_of_returned(p_lot app.credit_lots)
  returns timestamptz
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when p_lot.expires_at <= app.now() or exists (
      select
      from app.ledger_transfers
      where idempotency_key
        = 'expire:' || p_lot.id || ':' || extract(epoch from p_lot.expires_at)
    ) then app.now() + interval '7 days'
    else p_lot.expires_at end
$$;

create or replace function app.post_restore(
  p_user_id uuid, p_key text, p_reference text, p_debit text, p_credit text, p_lot_id uuid,
  p_amount bigint
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_expires_at timestamptz;
begin
  if p_amount = 0 then
    return;
  end if;
  if p_credit = 'available' then
    update app.credit_lots as lot
    set remaining = remaining + p_amount,
      expires_at = app.expiry_of_returned(lot)
    where id = p_lot_id
    returning expires_at into v_expires_at;
  end if;
  insert into app.ledger_transfers (
    idempotency_key, kind, debit, credit, amount, user_id, lot_id, lot_expires_at, reference
  )
  values (
    'restore:' || p_key || ':' || coalesce(p_lot_id::text, 'debt'), 'restore', p_debit, p_credit,
    p_amount, p_user_id, p_lot_id, v_expires_at, p_reference);
end $$;

create or replace function app.refund(
  p_user_id uuid, p_purpose text, p_subject_id uuid, p_charged bigint default 0
)
  returns boolean
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_account app.credit_accounts := app.lock_account(p_user_id);
  v_reservation app.reservations;
  v_to_debt bigint;
  v_key text := p_purpose || ':' || p_subject_id;
begin
  select *
  into v_reservation
  from app.reservations
  where subject_id = p_subject_id
    and purpose = p_purpose
    and user_id = p_user_id
  for no key update;
  if not found then
    raise exception 'no reservation' using errcode = 'JS404', detail = '{"kind": "reservation"}';
  end if;
  if v_reservation.confirmed_amount = p_charged then
    return false;
  end if;
  if v_reservation.state <> 'pending' then
    raise exception 'reservation has ended otherwise'
      using errcode = 'JS409', detail = jsonb_build_object(
        'reason', case v_reservation.state
          when 'confirmed' then 'reservation_confirmed' else 'reservation_refunded' end)::text;
  end if;
  if p_charged not between 0 and v_reservation.amount - 1 then
    raise exception 'a share is less than the whole' using errcode = 'JS500', detail =
      jsonb_build_object('subject_id', p_subject_id)::text;
  end if;
  -- What is left of an expired lot expires first: only what is refunded is extended.
  perform app.expire_due_lots(p_user_id);
  update app.reservations
  set state = case p_charged when 0 then 'refunded' else 'confirmed' end,
    resolved_at = app.now(),
    confirmed_amount = p_charged
  where id = v_reservation.id;
  if p_charged > 0 then
    insert into app.ledger_transfers (
      idempotency_key, kind, debit, credit, amount, user_id, reservation_id, subject_id
    )
    values ('confirm:' || v_key, 'confirm', 'reserved', 'usage', p_charged,
      p_user_id, v_reservation.id, p_subject_id);
  end if;
  v_to_debt := least(v_account.debt, v_reservation.amount - p_charged);
  -- What is charged and what pays debt comes from the lots that would expire first, so the user
  -- keeps the longest-lived.
  with ordered as (
    select link.lot_id,
      link.amount,
      sum(link.amount) over (
        order by lot.expires_at nulls last, lot.is_paid, lot.created_at, lot.id) as through
    from app.reservation_lots as link
    join app.credit_lots as lot on lot.id = link.lot_id
    where link.reservation_id = v_reservation.id
  ), uncharged as (
    select lot_id, least(amount, through - p_charged) as amount, through - p_charged as through
    from ordered
    where through > p_charged
  ), parts as (
    select lot_id, least(amount, greatest(through - v_to_debt, 0)) as to_lot, amount
    from uncharged
  ), returned as (
    update app.credit_lots as lot
    set remaining = lot.remaining + parts.to_lot,
      expires_at = app.expiry_of_returned(lot)
    from parts
    where lot.id = parts.lot_id
      and parts.to_lot > 0
    returning lot.id, lot.expires_at
  )
  insert into app.ledger_transfers (
    idempotency_key, kind, debit, credit, amount,
    user_id, lot_id, reservation_id, subject_id, lot_expires_at
  )
  select 'refund:' || v_key || case line.credit when 'debt' then ':debt:' else ':' end
      || parts.lot_id,
    'refund', 'reserved', line.credit, line.amount,
    p_user_id, parts.lot_id, v_reservation.id, p_subject_id,
    case line.credit when 'available' then returned.expires_at end
  from parts
  left join returned on returned.id = parts.lot_id
  cross join lateral (
    values ('debt', parts.amount - parts.to_lot), ('available', parts.to_lot)
  ) as line (credit, amount)
  where line.amount > 0;
  perform app.move_balance(
    p_user_id, v_reservation.amount - p_charged - v_to_debt, -v_reservation.amount, -v_to_debt);
  return true;
end $$;

create or replace function app.request_order_sync(p_order_id uuid)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_order app.orders;
  v_pause interval;
begin
  select *
  into v_order
  from app.orders
  where id = p_order_id
    and user_id = v_user_id;
  if not found then
    raise exception 'no such order' using errcode = 'JS404', detail = '{"kind": "order"}';
  end if;
  -- Who comes back after a while, from the payment page perhaps, is served at once.
  if v_order.looked_at < app.clock_now() - interval '5 minutes' then
    v_order.looks := 0;
  end if;
  v_pause := make_interval(secs => least(30, power(2, greatest(0, v_order.looks - 1))));
  if v_order.state not in ('created', 'open', 'processing', 'expired')
    or v_order.fetch_started_at > app.clock_now() - interval '1 second'
    or v_order.looked_at > app.clock_now() - v_pause
    or exists (
      select
      from app.outbox
      where job = 'payment.sync'
        and dedupe_key = p_order_id::text
        and failures <> '{}')
  then
    return;
  end if;
  update app.orders
  set looks = least(v_order.looks + 1, 10), looked_at = app.clock_now()
  where id = p_order_id;
  perform app.add_task(
    'payment.sync', jsonb_build_object('order_id', p_order_id), p_order_id::text);
end $$;

create or replace function app.returnable_order(p_order_id uuid, p_user_id uuid)
  returns app.orders
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_order app.orders;
  v_reason text;
begin
  select *
  into v_order
  from app.orders
  where id = p_order_id
    and user_id = p_user_id
  for no key update;
  if not found then
    raise exception 'no such order' using errcode = 'JS404', detail = '{"kind": "order"}';
  end if;
  v_reason := case
    when v_order.paid_at is null and v_order.state <> 'review' then 'not_paid'
    when v_order.state in ('disputed', 'charged_back') then 'disputed'
    -- Also where what paid its page is another order's payment, from which it can be returned.
    when v_order.amount_total = 0 or v_order.provider_payment_id is null then 'nothing_paid'
    when v_order.amount_returned >= v_order.amount_total then 'all_returned' end;
  if v_reason is not null then
    raise exception 'not returnable' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', v_reason, 'state', v_order.state)::text;
  end if;
  return v_order;
end $$;

comment on function app.expiry_of_returned is
$$Until when a lot is good that credits come back to: one that has expired lives on seven days. Whether
it has says the ledger too, because whoever waited for the account may have begun before it expired.$$;

comment on function app.request_order_sync is
$$Has an order that has not ended synced. A request of a reader is no news: the pause between two
looks doubles, from 1 to 30 seconds, and a sync that has failed and backs off does not run sooner.
Locks: order, task. Errors: JS401, JS404.$$;

reset role;
revoke create on schema app from jewelshot_ledger;
