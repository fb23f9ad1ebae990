-- What a reversal took comes back along its own transfers, and every grant is asked for its reason.

alter table app.ledger_transfers
  drop constraint ledger_transfers_kind,
  drop constraint ledger_transfers_accounts,
  drop constraint ledger_transfers_lot,
  drop constraint ledger_transfers_reservation;
alter table app.ledger_transfers
  add constraint ledger_transfers_kind check (kind in (
    'grant', 'reserve', 'confirm', 'refund', 'expire', 'reverse', 'restore', 'adjust')),
  add constraint ledger_transfers_accounts check (
    (kind = 'grant' and debit in ('sales', 'signup', 'promo', 'gift', 'referral', 'adjustments')
      and credit in ('available', 'debt'))
    or (kind = 'reserve' and debit = 'available' and credit = 'reserved')
    or (kind = 'confirm' and debit = 'reserved' and credit = 'usage')
    or (kind = 'refund' and debit = 'reserved' and credit in ('available', 'debt'))
    or (kind = 'expire' and debit = 'available' and credit = 'expired')
    or (kind = 'reverse' and debit in ('available', 'debt') and credit = 'sales')
    or (kind = 'restore' and debit = 'sales' and credit in ('available', 'debt'))
    or (kind = 'restore' and debit = 'debt' and credit = 'available')
    or (kind = 'adjust' and debit in ('available', 'debt') and credit = 'adjustments')
  ),
  add constraint ledger_transfers_lot check (case
    when kind = 'restore' and debit = 'sales' and credit = 'debt' then true
    else (lot_id is null) = (kind = 'confirm' or (kind in ('reverse', 'adjust') and debit = 'debt'))
    end),
  add constraint ledger_transfers_reservation check (
    (reservation_id is null) = (kind in ('grant', 'expire', 'reverse', 'restore', 'adjust'))
    and (reservation_id is null) = (subject_id is null));
create index ledger_transfers_reversals on app.ledger_transfers (reference)
  where kind in ('reverse', 'restore');
create index ledger_transfers_debt on app.ledger_transfers (user_id)
  where debit = 'debt' or credit = 'debt';
-- functions

set local lock_timeout = '5s';
set local statement_timeout = '60s';

drop function app.refund(uuid,text,uuid);

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

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
    update app.credit_lots
    set remaining = remaining + p_amount,
      expires_at = case
        when expires_at <= app.now() then app.now() + interval '7 days' else expires_at end
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
    raise exception 'reservation has ended otherwise' using errcode = 'JS409', detail =
      jsonb_build_object('reason', 'reservation_' || v_reservation.state)::text;
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
      expires_at = case
        when lot.expires_at <= app.now() then app.now() + interval '7 days' else lot.expires_at end
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
    p_return_id, v_order, v_returned - v_order.amount_returned, 'buyer', p_reason, null);
end $$;

create or replace function app.restore_credits(
  p_user_id uuid, p_amount bigint, p_key text, p_reference text
)
  returns bigint
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_account app.credit_accounts := app.lock_account(p_user_id);
  v_debt bigint := v_account.debt;
  v_left bigint := p_amount;
  v_to_lots bigint := 0;
  v_posted bigint;
  v_place record;
  v_part bigint;
  v_of_debt bigint;
begin
  perform app.require_positive(p_amount);
  select sum(amount)
  into v_posted
  from app.ledger_transfers
  where reference = p_reference
    and kind = 'restore'
    and debit = 'sales'
    and starts_with(idempotency_key, 'restore:' || p_key || ':');
  if v_posted is not null then
    if v_posted <> p_amount then
      raise exception 'restore replayed with another amount'
        using errcode = 'JS500', detail = jsonb_build_object('idempotency_key', p_key)::text;
    end if;
    return v_debt;
  end if;
  perform app.expire_due_lots(p_user_id);
  for v_place in
    select posted.lot_id,
      sum(case posted.kind when 'reverse' then posted.amount else -posted.amount end)::bigint
        as taken
    from app.ledger_transfers as posted
    left join app.credit_lots as lot on lot.id = posted.lot_id
    where posted.reference = p_reference
      and posted.user_id = p_user_id
      and posted.kind in ('reverse', 'restore')
      and 'sales' in (posted.debit, posted.credit)
    group by posted.lot_id, lot.id
    order by posted.lot_id is null desc, (lot.reference = p_reference) is true,
      lot.expires_at desc nulls first, lot.is_paid desc, lot.created_at desc, lot.id desc
  loop
    v_part := least(v_left, v_place.taken);
    v_of_debt := least(v_part, v_debt);
    v_left := v_left - v_part;
    v_debt := v_debt - v_of_debt;
    v_to_lots := v_to_lots + v_part - v_of_debt;
    if v_place.lot_id is not null then
      perform app.post_restore(
        p_user_id, p_key || ':pays', p_reference, 'sales', 'debt', v_place.lot_id, v_of_debt);
      perform app.post_restore(
        p_user_id, p_key, p_reference, 'sales', 'available', v_place.lot_id, v_part - v_of_debt);
    else
      -- What is not owed any more was paid meanwhile.
      perform app.return_payers_of_debt(p_user_id, v_part - v_of_debt, p_key, p_reference);
      perform app.post_restore(p_user_id, p_key, p_reference, 'sales', 'debt', null, v_part);
    end if;
  end loop;
  if v_left > 0 then
    raise exception 'more is restored than was taken'
      using errcode = 'JS500', detail = jsonb_build_object('idempotency_key', p_key)::text;
  end if;
  perform app.move_balance(p_user_id, v_to_lots, 0, v_debt - v_account.debt);
  return v_debt;
end $$;

create or replace function app.return_payers_of_debt(
  p_user_id uuid, p_amount bigint, p_key text, p_reference text
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_left bigint := p_amount;
  v_lot record;
begin
  for v_lot in
    select lot_id,
      sum(case credit when 'debt' then amount else -amount end)::bigint as paid
    from app.ledger_transfers
    where user_id = p_user_id
      and 'debt' in (debit, credit)
      and lot_id is not null
    group by lot_id
    having sum(case credit when 'debt' then amount else -amount end) > 0
    order by max(id) filter (where credit = 'debt') desc
  loop
    exit when v_left = 0;
    perform app.post_restore(
      p_user_id, p_key || ':paid', p_reference, 'debt', 'available', v_lot.lot_id,
      least(v_left, v_lot.paid));
    v_left := v_left - least(v_left, v_lot.paid);
  end loop;
  if v_left > 0 then
    raise exception 'a debt was paid by nothing'
      using errcode = 'JS500', detail = jsonb_build_object('idempotency_key', p_key)::text;
  end if;
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
    perform app.restore_credits(
      v_before.user_id, v_before.credits_reversed - v_target, v_key, 'order:' || p_order_id);
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

comment on function app.post_restore is
$$One line of a restore, and what it puts into its lot; nothing for an amount of 0. A lot that has
expired meanwhile is extended by seven days. Locks: the lot, under the account's.$$;

comment on function app.refund is
$$Refunds a pending reservation, but for the share that is charged, which is confirmed: debt first,
the rest to its lots; a lot that has expired meanwhile is extended by seven days. Returns false when
it already ended so (replay). Locks: account, reservation, lots.
Errors: JS404, JS409 {reason: it ended otherwise}, JS500 (the share is the whole or more).$$;

comment on function app.restore_credits is
$$Gives back p_amount of what reverse_credits took for p_reference, to where each part came from: the
debt that it made is not owed, and what paid that debt meanwhile goes back to its lots; then each
lot's own part, the lots of the payment itself last, as a smaller reversal would have left them.
No lot is made, so nothing changes its source: free credits stay free and keep their expiry; a lot
that has expired meanwhile lives on seven days. A debt that is left is paid first.
Returns the account's debt afterwards. Locks: account, lots. Errors: JS404, JS422 {field}, JS500.
Replay: the same key and amount do nothing; another amount JS500.$$;

comment on function app.return_payers_of_debt is
$$Gives credits that paid a debt back to their lots, the last payer first, because that debt is not
owed after all. Locks: lots, under the account's. Errors: JS500.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

create or replace function app.prove_adjustments()
  returns table (check_name text, table_name text, row_id text, detail jsonb)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set row_security = off
as $$
  with posted as (
    select user_id, created_at, table_name, idempotency_key, sum(amount) as amount,
      min(row_id) as row_id,
      case when starts_with(idempotency_key, 'admin:' || user_id || ':')
        then substr(idempotency_key, length('admin:' || user_id || ':') + 1) end as key
    from (
      select user_id, created_at, granted as amount, idempotency_key, id::text as row_id,
        'credit_lots' as table_name
      from app.credit_lots
      where source = 'adjustment'
      union all
      select user_id, created_at, -amount,
        substr(idempotency_key, 8, greatest(0, length(idempotency_key) - 8
          - length(coalesce(lot_id::text, 'debt')))),
        id::text, 'ledger_transfers'
      from app.ledger_transfers
      where kind = 'adjust'
    ) as part
    group by user_id, created_at, table_name, idempotency_key
  ), acts as (
    select line.id, line.target, line.created_at, told.detail
    from app.audit_log as line
    left join app.audit_details as told on told.audit_id = line.id
    where line.action = 'credits.adjust'
  ), pairs as (
    select acts.id as audit_id, posted.row_id
    from posted
    join acts on acts.target = posted.user_id::text
    -- Details may be erased with the person: then the moment is what the two have in common.
    where case when acts.detail is null then acts.created_at = posted.created_at
      else acts.detail ->> 'idempotency_key' = posted.key
        and (acts.detail ->> 'amount')::bigint = posted.amount end
  )
  select 'adjustment_reason', table_name, row_id, jsonb_build_object(
    'user_id', user_id, 'amount', amount, 'idempotency_key', idempotency_key)
  from posted
  where not exists (select from pairs where pairs.row_id = posted.row_id)

  union all
  select 'adjustment_posted', 'audit_log', id::text, jsonb_build_object(
    'target', target, 'detail', detail)
  from acts
  where not exists (select from pairs where pairs.audit_id = acts.id)

  union all
  select 'unknown_reason', 'credit_lots', id::text, jsonb_build_object(
    'user_id', user_id, 'source', source, 'granted', granted, 'idempotency_key', idempotency_key)
  from app.credit_lots
  where source not in ('purchase', 'signup', 'promo', 'gift', 'adjustment')
$$;

create or replace function app.prove_codes()
  returns table (check_name text, table_name text, row_id text, detail jsonb)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set row_security = off
as $$
  select 'code_reason', 'credit_lots', lot.id::text, jsonb_build_object(
    'user_id', lot.user_id, 'source', lot.source, 'granted', lot.granted,
    'idempotency_key', lot.idempotency_key)
  from app.credit_lots as lot
  where lot.source in ('promo', 'gift')
    and not exists (
      select
      from app.code_redemptions as redemption
      join app.codes as code on code.id = redemption.code_id
      where redemption.lot_id = lot.id
        and redemption.user_id = lot.user_id
        and redemption.credits = lot.granted
        and code.credits = lot.granted
        and code.kind = lot.source
        and lot.idempotency_key = 'code:' || code.id || ':' || lot.user_id
    )

  union all
  select 'code_redemption', 'code_redemptions', redemption.code_id || '/' || redemption.user_id,
    jsonb_build_object('lot_id', redemption.lot_id, 'credits', redemption.credits)
  from app.code_redemptions as redemption
  left join app.credit_lots as lot
    on lot.id = redemption.lot_id
    and lot.user_id = redemption.user_id
    and lot.source in ('promo', 'gift')
    and lot.granted = redemption.credits
  where lot.id is null

  union all
  select 'code_uses', 'codes', code.id::text, jsonb_build_object(
    'uses', code.uses, 'redemptions', coalesce(redeemed.times, 0))
  from app.codes as code
  left join (
    select code_id, count(*) as times
    from app.code_redemptions
    group by code_id
  ) as redeemed on redeemed.code_id = code.id
  where code.uses <> coalesce(redeemed.times, 0)

  union all
  select 'code_issue', 'codes', made.issue_id::text, jsonb_build_object(
    'codes', made.codes, 'kind', made.kind, 'credits', made.credits, 'uses_max', made.uses_max)
  from (
    select issue_id, kind, credits, uses_max, count(*) as codes
    from app.codes
    group by issue_id, kind, credits, uses_max
  ) as made
  where not exists (
    select
    from app.audit_log as line
    left join app.audit_details as told on told.audit_id = line.id
    where line.action = 'codes.create'
      and line.target = made.issue_id::text
      and (told.detail is null
        or told.detail @> jsonb_build_object('kind', made.kind, 'credits', made.credits,
          'uses_max', made.uses_max, 'codes', made.codes))
  )
$$;

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
      max(id) filter (
        where kind = 'grant' or (kind in ('refund', 'restore') and credit = 'available')
      ) as expiry_id
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
        = transfer.kind || ':' || reservation.purpose || ':' || reservation.subject_id
          || case transfer.credit when 'debt' then ':debt:' else ':' end || transfer.lot_id
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
      and kind in ('reverse', 'restore')
      and 'sales' in (debit, credit)
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
  select 'order_reversed', 'orders', coalesce(orders.id::text, reversed.reference),
    jsonb_build_object(
      'credits_reversed', orders.credits_reversed, 'posted', coalesce(reversed.amount, 0))
  from app.orders
  full join reversed on reversed.reference = 'order:' || orders.id
  where orders.credits_reversed is distinct from coalesce(reversed.amount, 0)
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

create or replace function app.prove_purchases()
  returns table (check_name text, table_name text, row_id text, detail jsonb)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set row_security = off
as $$
  select 'purchase_reason', 'credit_lots', lot.id::text, jsonb_build_object(
    'user_id', lot.user_id, 'granted', lot.granted, 'idempotency_key', lot.idempotency_key,
    'reference', lot.reference)
  from app.credit_lots as lot
  where lot.source = 'purchase'
    and not exists (
      select
      from app.orders
      where lot.idempotency_key = 'order:' || orders.id
        and lot.reference = 'order:' || orders.id
        and lot.user_id = orders.user_id
        and lot.granted = orders.credits
        and orders.paid_at is not null
    )
$$;

create or replace function app.prove_restores()
  returns table (check_name text, table_name text, row_id text, detail jsonb)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set row_security = off
as $$
  select 'restored_as_taken', 'ledger_transfers', 'of user ' || user_id, jsonb_build_object(
    'reference', reference, 'lot_id', lot_id,
    'reversed', coalesce(sum(amount) filter (where kind = 'reverse'), 0),
    'restored', coalesce(sum(amount) filter (where kind = 'restore'), 0))
  from app.ledger_transfers
  where kind in ('reverse', 'restore')
    and 'sales' in (debit, credit)
  group by user_id, reference, lot_id
  having coalesce(sum(amount) filter (where kind = 'restore'), 0)
    > coalesce(sum(amount) filter (where kind = 'reverse'), 0)

  union all
  select 'debt_paid_by_lot', 'ledger_transfers', 'of user ' || user_id, jsonb_build_object(
    'lot_id', lot_id)
  from app.ledger_transfers
  where 'debt' in (debit, credit)
    and lot_id is not null
  group by user_id, lot_id
  having sum(case credit when 'debt' then amount else -amount end) < 0
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
      and source = 'signup'
      and idempotency_key = 'signup:' || person.user_id
  )

  union all
  select 'signup_reason', 'credit_lots', lot.id::text, jsonb_build_object(
    'user_id', lot.user_id, 'granted', lot.granted, 'idempotency_key', lot.idempotency_key)
  from app.credit_lots as lot
  where lot.source = 'signup'
    and not exists (
      select
      from app.signup_grants as person
      where person.user_id = lot.user_id
        and lot.idempotency_key = 'signup:' || person.user_id
    )
$$;

comment on function app.prove_adjustments is
$$Every correction, up or down, has its line in the audit log with the same terms, and each such line
its correction. No door gives credits of a source that is named here nowhere: who adds one adds its
proof. Owned by the migrating role, which bypasses row level security; row_security = off makes a
role that would be filtered raise instead of seeing nothing.$$;

comment on function app.prove_codes is
$$Promotional and gift credits came from a code that this person redeemed, each redemption gave its
lot, and each code was made by somebody whom the audit log names.
Owned by the migrating role, which bypasses row level security; row_security = off makes a role
that would be filtered raise instead of seeing nothing.$$;

comment on function app.prove_purchases is
$$Bought credits were bought: each such lot is the one of a paid order of its owner.
Owned by the migrating role, which bypasses row level security; row_security = off makes a role
that would be filtered raise instead of seeing nothing.$$;

comment on function app.prove_restores is
$$What was restored after a reversal went to the lots that it had been taken from, and no more than was
taken; a lot gets no more back of a debt than it paid. So no restore gives credits another source.
Owned by the migrating role, which bypasses row level security; row_security = off makes a role
that would be filtered raise instead of seeing nothing.$$;

comment on function app.prove_signups is
$$Free credits were given once a person, and nowhere but in the ledger; nobody has any without it.
Owned by the migrating role, which bypasses row level security; row_security = off makes a role
that would be filtered raise instead of seeing nothing.$$;

grant execute on function app.prove_adjustments() to jewelshot_worker;

grant execute on function app.prove_codes() to jewelshot_worker;

grant execute on function app.prove_purchases() to jewelshot_worker;

grant execute on function app.prove_restores() to jewelshot_worker;
