-- Way back of tmp functions

set local lock_timeout = '5s';
set local statement_timeout = '60s';

drop function app.post_restore(uuid,text,text,text,text,uuid,bigint);

drop function app.prove_adjustments();

drop function app.prove_codes();

drop function app.prove_purchases();

drop function app.prove_restores();

drop function app.refund(uuid,text,uuid,bigint);

drop function app.restore_credits(uuid,bigint,text,text);

drop function app.return_payers_of_debt(uuid,bigint,text,text);

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.refund(p_user_id uuid, p_purpose text, p_subject_id uuid)
  returns boolean
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_account app.credit_accounts := app.lock_account(p_user_id);
  v_reservation app.reservations;
  v_to_debt bigint;
  v_key text := 'refund:' || p_purpose || ':' || p_subject_id;
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
  if v_reservation.state = 'refunded' then
    return false;
  end if;
  if v_reservation.state = 'confirmed' then
    raise exception 'reservation was confirmed'
      using errcode = 'JS409', detail = '{"reason": "reservation_confirmed"}';
  end if;
  -- What is left of an expired lot expires first: only what is refunded is extended.
  perform app.expire_due_lots(p_user_id);
  update app.reservations
  set state = 'refunded', resolved_at = app.now(), confirmed_amount = 0
  where id = v_reservation.id;
  v_to_debt := least(v_account.debt, v_reservation.amount);
  if v_to_debt > 0 then
    insert into app.ledger_transfers (
      idempotency_key, kind, debit, credit, amount, user_id, reservation_id, subject_id
    )
    values (v_key || ':debt', 'refund', 'reserved', 'debt', v_to_debt,
      p_user_id, v_reservation.id, p_subject_id);
  end if;
  -- The debt is paid from the lots that would expire first, so the user keeps the longest-lived.
  with ordered as (
    select link.lot_id,
      link.amount,
      sum(link.amount) over (
        order by lot.expires_at nulls last, lot.is_paid, lot.created_at, lot.id) as through
    from app.reservation_lots as link
    join app.credit_lots as lot on lot.id = link.lot_id
    where link.reservation_id = v_reservation.id
  ), parts as (
    select lot_id, least(amount, through - v_to_debt) as amount
    from ordered
    where through > v_to_debt
  ), returned as (
    update app.credit_lots as lot
    set remaining = lot.remaining + parts.amount,
      expires_at = case
        when lot.expires_at <= app.now() then app.now() + interval '7 days' else lot.expires_at end
    from parts
    where lot.id = parts.lot_id
    returning lot.id, parts.amount, lot.expires_at
  )
  insert into app.ledger_transfers (
    idempotency_key, kind, debit, credit, amount,
    user_id, lot_id, reservation_id, subject_id, lot_expires_at
  )
  select v_key || ':' || id, 'refund', 'reserved', 'available', amount,
    p_user_id, id, v_reservation.id, p_subject_id, expires_at
  from returned;
  perform app.move_balance(
    p_user_id, v_reservation.amount - v_to_debt, -v_reservation.amount, -v_to_debt);
  return true;
end $$;

create or replace function app.request_return(
  p_return_id uuid, p_order_id uuid, p_credits bigint, p_reason text
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_days integer;
  v_order app.orders;
  v_unused bigint;
  v_target numeric;
  v_returned bigint;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
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
  select coalesce(sum(remaining), 0)
  into v_unused
  from app.credit_lots
  where user_id = v_user_id
    and source = 'purchase'
    and reference = 'order:' || p_order_id;
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
    p_return_id, v_order, v_returned - v_order.amount_returned, 'buyer', p_reason, null);
end $$;

create or replace function app.settle_order(p_order_id uuid)
  returns app.orders
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before app.orders;
  v_order app.orders;
  v_type text;
  v_key text;
  v_returned bigint;
  v_target bigint := 0;
  v_is_disputed boolean;
  v_is_lost boolean;
begin
  update app.orders
  set version = version + 1
  where id = p_order_id
  returning * into v_before;
  if v_before.paid_at is null then
    return v_before;
  end if;
  select coalesce(sum(amount), 0), coalesce(bool_or(state = 'open'), false),
    coalesce(bool_or(state = 'lost'), false)
  into v_returned, v_is_disputed, v_is_lost
  from app.payment_disputes
  where order_id = p_order_id
    and state in ('open', 'lost');
  v_returned := least(v_before.amount_total, v_returned + (
    select coalesce(sum(amount), 0)
    from app.payment_returns
    where order_id = p_order_id
      and state in ('requested', 'pending', 'requires_action', 'succeeded')));
  if v_returned > 0 then
    v_target := case when v_returned >= v_before.amount_total then v_before.credits
      else v_before.credits * v_returned / v_before.amount_total end;
  end if;
  v_key := 'order:' || p_order_id || ':' || v_before.version;
  if v_target > v_before.credits_reversed then
    perform app.claw_back(
      v_before.user_id, v_target - v_before.credits_reversed, 'reverse', 'sales', v_key,
      'order:' || p_order_id, 'system', null);
  elsif v_target < v_before.credits_reversed then
    perform app.grant_credits(
      v_before.user_id, v_before.credits_reversed - v_target, 'purchase', 'restore:' || v_key,
      null, 'order:' || p_order_id);
  end if;
  update app.orders
  set amount_returned = v_returned,
    credits_reversed = v_target,
    state = case
      when v_is_disputed then 'disputed'
      when v_is_lost then 'charged_back'
      when v_returned > 0 and v_target = credits then 'refunded'
      when v_returned > 0 then 'partially_refunded'
      else 'paid' end
  where id = p_order_id
  returning * into v_order;
  v_type := case
    when v_order.state = 'disputed' and v_before.state <> 'disputed' then 'order.disputed'
    when v_order.state = 'charged_back' and v_before.state <> 'charged_back'
      then 'order.charged_back'
    when v_returned > v_before.amount_returned then 'order.returned'
    when v_returned < v_before.amount_returned then 'order.restored' end;
  if v_type is not null then
    perform app.emit(
      v_order.user_id, v_type, p_order_id, v_order.version,
      jsonb_build_object('pack', v_order.pack_slug, 'state', v_order.state,
        'credits', v_order.credits, 'credits_reversed', v_target,
        'amount_total', v_order.amount_total, 'amount_returned', v_returned,
        'currency', v_order.currency));
  end if;
  return v_order;
end $$;

comment on function app.refund is
$$Refunds a pending reservation: debt first, the rest to its lots; a lot that has expired
meanwhile is extended by seven days. Returns false when it already was refunded (replay).
Locks: account, reservation, lots. Errors: JS404, JS409 {reason: confirmed}.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

create or replace function app.prove_ledger()
  returns table (check_name text, table_name text, row_id text, detail jsonb)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set row_security = off
  set work_mem = '128MB'
  set enable_indexscan = off
as $$
  with by_user as (
    select user_id,
      coalesce(sum(amount) filter (where credit = 'available'), 0)
        - coalesce(sum(amount) filter (where debit = 'available'), 0) as available,
      coalesce(sum(amount) filter (where credit = 'reserved'), 0)
        - coalesce(sum(amount) filter (where debit = 'reserved'), 0) as reserved,
      coalesce(sum(amount) filter (where debit = 'debt'), 0)
        - coalesce(sum(amount) filter (where credit = 'debt'), 0) as debt
    from app.ledger_transfers
    group by user_id
  ), lots_by_user as (
    select user_id, sum(remaining) as remaining
    from app.credit_lots
    group by user_id
  ), pending_by_user as (
    select user_id, sum(amount) as amount
    from app.reservations
    where state = 'pending'
    group by user_id
  ), proved_lots as (
    select lot_id,
      user_id,
      coalesce(sum(amount) filter (where kind = 'grant'), 0) as granted,
      coalesce(sum(amount) filter (where credit = 'available'), 0)
        - coalesce(sum(amount) filter (where debit = 'available'), 0) as remaining,
      min(debit) filter (where kind = 'grant') as debit,
      min(idempotency_key) filter (where kind = 'grant') as grant_key,
      min(reference) filter (where kind = 'grant') as reference,
      min(created_at) filter (where kind = 'grant') as created_at,
      max(id) filter (where kind in ('grant', 'refund')) as expiry_id
    from app.ledger_transfers
    where lot_id is not null
    group by lot_id, user_id
  ), by_lot as (
    select proved_lots.*, latest.lot_expires_at as expires_at
    from proved_lots
    left join app.ledger_transfers as latest on latest.id = proved_lots.expiry_id
  ), by_reservation as (
    select reservation_id,
      user_id,
      subject_id,
      coalesce(sum(amount) filter (where kind = 'reserve'), 0) as reserved,
      coalesce(sum(amount) filter (where kind = 'confirm'), 0) as confirmed,
      coalesce(sum(amount) filter (where kind = 'refund'), 0) as refunded,
      min(idempotency_key) filter (where kind = 'reserve') as reserve_key,
      min(created_at) filter (where kind = 'reserve') as created_at,
      min(created_at) filter (where kind <> 'reserve') as resolved_at
    from app.ledger_transfers
    where reservation_id is not null
    group by reservation_id, user_id, subject_id
  ), balances as (
    select person.id as person_id,
      account.user_id as account_id,
      coalesce(person.id, account.user_id, posted.user_id, lots.user_id, pending.user_id)
        as user_id,
      account.available, account.reserved, account.debt,
      coalesce(posted.available, 0) as transfers_available,
      coalesce(posted.reserved, 0) as transfers_reserved,
      coalesce(posted.debt, 0) as transfers_debt,
      coalesce(lots.remaining, 0) as lots_remaining,
      coalesce(pending.amount, 0) as pending_reservations
    from app.users as person
    full join app.credit_accounts as account on account.user_id = person.id
    full join by_user as posted
      on posted.user_id = coalesce(person.id, account.user_id)
    full join lots_by_user as lots
      on lots.user_id = coalesce(person.id, account.user_id, posted.user_id)
    full join pending_by_user as pending
      on pending.user_id = coalesce(person.id, account.user_id, posted.user_id, lots.user_id)
  ), off_balance as (
    select *,
      jsonb_build_object(
        'available', available, 'transfers_available', transfers_available,
        'lots_remaining', lots_remaining, 'reserved', reserved,
        'transfers_reserved', transfers_reserved, 'pending_reservations', pending_reservations,
        'debt', debt, 'transfers_debt', transfers_debt) as figures
    from balances
    where person_id is null
      or account_id is null
      or available <> transfers_available
      or available <> lots_remaining
      or reserved <> transfers_reserved
      or reserved <> pending_reservations
      or debt <> transfers_debt
  )
  select 'user_missing', 'users', user_id::text, figures
  from off_balance
  where person_id is null

  union all
  select 'user_without_account', 'users', user_id::text, figures
  from off_balance
  where account_id is null

  union all
  select 'account_missing', 'credit_accounts', user_id::text, figures
  from off_balance
  where account_id is null

  union all
  select 'account_without_user', 'credit_accounts', user_id::text, figures
  from off_balance
  where person_id is null
    and account_id is not null

  union all
  select 'account_balance', 'credit_accounts', user_id::text, figures
  from off_balance
  where available <> transfers_available
    or reserved <> transfers_reserved
    or debt <> transfers_debt

  union all
  select 'account_lots', 'credit_accounts', user_id::text, figures
  from off_balance
  where available <> lots_remaining

  union all
  select 'account_pending', 'credit_accounts', user_id::text, figures
  from off_balance
  where reserved <> pending_reservations

  -- Lines are missing or too many when they alone disagree; a debt has no third witness.
  union all
  select 'transfers_incomplete', 'ledger_transfers', 'of user ' || user_id, figures
  from off_balance
  where (transfers_available <> lots_remaining and available = lots_remaining)
    or (transfers_reserved <> pending_reservations and reserved = pending_reservations)
    or transfers_debt <> debt

  union all
  select 'transfer_altered', 'ledger_transfers', transfer.id::text,
    to_jsonb(transfer) - 'digest'
  from app.ledger_transfers as transfer
  where transfer.digest is distinct from sha256(convert_to(concat(
    transfer.id, '|', transfer.kind, '|', transfer.debit, '|', transfer.credit, '|',
    transfer.amount, '|', transfer.user_id, '|', transfer.lot_id, '|', transfer.reservation_id,
    '|', transfer.subject_id, '|', quote_literal(transfer.idempotency_key),
    quote_nullable(transfer.reference), quote_literal(transfer.actor),
    quote_nullable(transfer.note)), 'utf8')
    || timestamptz_send(transfer.created_at)
    || coalesce(timestamptz_send(transfer.lot_expires_at), ''))

  -- The key says what the line is, so it cannot be posted twice.
  union all
  select 'transfer_terms', 'ledger_transfers', transfer.id::text,
    to_jsonb(transfer) - 'digest' || jsonb_build_object(
      'lot_user_id', lot.user_id, 'reservation_user_id', reservation.user_id,
      'reservation_subject_id', reservation.subject_id)
  from app.ledger_transfers as transfer
  left join app.credit_lots as lot on lot.id = transfer.lot_id
  left join app.reservations as reservation on reservation.id = transfer.reservation_id
  where (transfer.lot_id is not null and lot.user_id is distinct from transfer.user_id)
    or (transfer.reservation_id is not null and (
      reservation.user_id is distinct from transfer.user_id
      or reservation.subject_id is distinct from transfer.subject_id))
    or not coalesce(case
      when transfer.kind = 'grant' then transfer.idempotency_key
        = 'grant:' || lot.idempotency_key || ':' || transfer.credit
      when transfer.kind in ('reserve', 'refund') then transfer.idempotency_key
        = transfer.kind || ':' || reservation.purpose || ':' || reservation.subject_id || ':'
          || coalesce(transfer.lot_id::text, 'debt')
      when transfer.kind = 'confirm' then transfer.idempotency_key
        = 'confirm:' || reservation.purpose || ':' || reservation.subject_id
      when transfer.kind = 'expire' then transfer.idempotency_key
        = 'expire:' || transfer.lot_id || ':' || extract(epoch from transfer.lot_expires_at)
      else starts_with(transfer.idempotency_key, transfer.kind || ':')
        and right(transfer.idempotency_key, 37) like
          '%:' || coalesce(transfer.lot_id::text, 'debt')
    end, false)

  union all
  select 'lot_transfers', 'credit_lots', coalesce(lot.id, posted.lot_id)::text,
    jsonb_build_object(
      'user_id', lot.user_id, 'transfers_user_id', posted.user_id,
      'granted', lot.granted, 'transfers_granted', posted.granted,
      'remaining', lot.remaining, 'transfers_remaining', posted.remaining,
      'source', lot.source, 'transfers_debit', posted.debit,
      'idempotency_key', lot.idempotency_key, 'transfers_key', posted.grant_key,
      'reference', lot.reference, 'transfers_reference', posted.reference,
      'expires_at', lot.expires_at, 'transfers_expires_at', posted.expires_at,
      'created_at', lot.created_at, 'transfers_created_at', posted.created_at)
  from app.credit_lots as lot
  full join by_lot as posted on posted.lot_id = lot.id and posted.user_id = lot.user_id
  where lot.granted is distinct from posted.granted
    or lot.remaining is distinct from posted.remaining
    or lot.expires_at is distinct from posted.expires_at
    or lot.reference is distinct from posted.reference
    or lot.created_at is distinct from posted.created_at
    or (posted.grant_key in (
      'grant:' || lot.idempotency_key || ':available', 'grant:' || lot.idempotency_key || ':debt')
    ) is not true
    or posted.debit is distinct from case lot.source
      when 'purchase' then 'sales' when 'adjustment' then 'adjustments' else lot.source end

  union all
  select 'reservation_transfers', 'reservations',
    coalesce(reservation.id, posted.reservation_id)::text,
    jsonb_build_object(
      'user_id', reservation.user_id, 'transfers_user_id', posted.user_id,
      'subject_id', reservation.subject_id, 'transfers_subject_id', posted.subject_id,
      'purpose', reservation.purpose, 'transfers_key', posted.reserve_key,
      'state', reservation.state, 'amount', reservation.amount,
      'confirmed_amount', reservation.confirmed_amount,
      'transfers_reserved', posted.reserved, 'transfers_confirmed', posted.confirmed,
      'transfers_refunded', posted.refunded,
      'created_at', reservation.created_at, 'transfers_created_at', posted.created_at,
      'resolved_at', reservation.resolved_at, 'transfers_resolved_at', posted.resolved_at)
  from app.reservations as reservation
  full join by_reservation as posted
    on posted.reservation_id = reservation.id
    and posted.user_id = reservation.user_id
    and posted.subject_id = reservation.subject_id
  where reservation.amount is distinct from posted.reserved
    or reservation.created_at is distinct from posted.created_at
    or reservation.resolved_at is distinct from posted.resolved_at
    or starts_with(posted.reserve_key,
      'reserve:' || reservation.purpose || ':' || reservation.subject_id || ':') is not true
    or reservation.state is distinct from
      case when posted.confirmed > 0 then 'confirmed' when posted.refunded > 0 then 'refunded'
        else 'pending' end
    or reservation.confirmed_amount is distinct from
      case when posted.confirmed + posted.refunded > 0 then posted.confirmed end
    or posted.confirmed + posted.refunded not in (0, posted.reserved)

  union all
  select 'reservation_lots', 'reservation_lots',
    coalesce(link.reservation_id, posted.reservation_id) || '/'
      || coalesce(link.lot_id, posted.lot_id),
    jsonb_build_object('amount', link.amount, 'transfers_reserved', posted.amount)
  from app.reservation_lots as link
  full join (
    select reservation_id, lot_id, amount
    from app.ledger_transfers
    where kind = 'reserve'
  ) as posted on posted.reservation_id = link.reservation_id and posted.lot_id = link.lot_id
  where link.amount is distinct from posted.amount
$$;

create or replace function app.prove_orders()
  returns table (check_name text, table_name text, row_id text, detail jsonb)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set row_security = off
as $$
  with granted as (
    select substr(idempotency_key, 7) as order_id, user_id, granted
    from app.credit_lots
    where source = 'purchase'
      and idempotency_key like 'order:%'
  ), reversed as (
    select reference,
      sum(case when kind = 'reverse' then amount else -amount end) as amount
    from app.ledger_transfers
    where reference like 'order:%'
      and (kind = 'reverse'
        or (kind = 'grant' and idempotency_key like 'grant:restore:order:%'))
    group by reference
  ), returned as (
    select orders.id,
      coalesce((
        select sum(amount)
        from app.payment_returns
        where order_id = orders.id
          and state in ('requested', 'pending', 'requires_action', 'succeeded')), 0)
      + coalesce((
        select sum(amount)
        from app.payment_disputes
        where order_id = orders.id
          and state in ('open', 'lost')), 0) as amount
    from app.orders
    where paid_at is not null
  )
  select 'order_granted', 'orders', coalesce(orders.id::text, granted.order_id),
    jsonb_build_object('state', orders.state, 'credits', orders.credits,
      'granted', granted.granted)
  from (select * from app.orders where paid_at is not null) as orders
  full join granted on granted.order_id = orders.id::text
  where orders.id is null
    or granted.granted is distinct from orders.credits
    or granted.user_id is distinct from orders.user_id
  union all
  select 'order_reversed', 'orders', orders.id::text, jsonb_build_object(
    'credits_reversed', orders.credits_reversed, 'posted', coalesce(reversed.amount, 0))
  from app.orders
  left join reversed on reversed.reference = 'order:' || orders.id
  where orders.credits_reversed <> coalesce(reversed.amount, 0)
  union all
  select 'order_returned', 'orders', orders.id::text, jsonb_build_object(
    'amount_returned', orders.amount_returned, 'returns_and_disputes', returned.amount,
    'amount_total', orders.amount_total, 'credits_reversed', orders.credits_reversed)
  from app.orders
  join returned on returned.id = orders.id
  where orders.amount_returned <> least(orders.amount_total, returned.amount)
    or orders.credits_reversed <> case
      when orders.amount_returned = 0 then 0
      when orders.amount_returned >= orders.amount_total then orders.credits
      else orders.credits * orders.amount_returned / orders.amount_total end
  union all
  select 'order_terms', 'orders', orders.id::text, jsonb_build_object(
    'credits', orders.credits, 'unit_amount', orders.unit_amount, 'currency', orders.currency)
  from app.orders
  join app.packs on packs.slug = orders.pack_slug and packs.version = orders.pack_version
  where (orders.credits, orders.unit_amount, orders.currency)
    is distinct from (packs.credits, packs.unit_amount, packs.currency)
$$;

create or replace function app.prove_signups()
  returns table (check_name text, table_name text, row_id text, detail jsonb)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set row_security = off
as $$
  select 'signup_grant', 'signup_grants', person.user_id::text, jsonb_build_object(
    'person_key', person.person_key)
  from app.signup_grants as person
  where not exists (
    select
    from app.credit_lots
    where user_id = person.user_id
      and idempotency_key = 'signup:' || person.user_id
  )
$$;

comment on function app.prove_signups is
$$Free credits were given once a person, and nowhere but in the ledger.
Owned by the migrating role, which bypasses row level security; row_security = off makes a role
that would be filtered raise instead of seeing nothing.$$;

-- tables
drop index app.ledger_transfers_debt;
drop index app.ledger_transfers_reversals;
alter table app.ledger_transfers
  drop constraint ledger_transfers_kind,
  drop constraint ledger_transfers_accounts,
  drop constraint ledger_transfers_lot,
  drop constraint ledger_transfers_reservation;
alter table app.ledger_transfers
  add constraint ledger_transfers_kind
    check (kind in ('grant', 'reserve', 'confirm', 'refund', 'expire', 'reverse', 'adjust')),
  add constraint ledger_transfers_accounts check (
    (kind = 'grant' and debit in ('sales', 'signup', 'promo', 'gift', 'referral', 'adjustments')
      and credit in ('available', 'debt'))
    or (kind = 'reserve' and debit = 'available' and credit = 'reserved')
    or (kind = 'confirm' and debit = 'reserved' and credit = 'usage')
    or (kind = 'refund' and debit = 'reserved' and credit in ('available', 'debt'))
    or (kind = 'expire' and debit = 'available' and credit = 'expired')
    or (kind = 'reverse' and debit in ('available', 'debt') and credit = 'sales')
    or (kind = 'adjust' and debit in ('available', 'debt') and credit = 'adjustments')
  ),
  add constraint ledger_transfers_lot check (
    (lot_id is null) = (kind = 'confirm' or (kind <> 'grant' and 'debt' in (debit, credit)))),
  add constraint ledger_transfers_reservation check (
    (reservation_id is null) = (kind in ('grant', 'expire', 'reverse', 'adjust'))
    and (reservation_id is null) = (subject_id is null));
