-- Money: accounts with debt, lots with expiry, reservations, and the append-only transfers that
-- prove them. Whole credits. The account's row is the mutex of a user's money: every function
-- locks it first, then reservation, lots, subject.
-- The functions that move credits are security definer, owned by jewelshot_ledger, which is neither
-- the owner of the tables nor able to log in. A definer sees all rows, so each look-up names the
-- user. Building blocks are granted to no role: only functions of the same owner call them.
-- after: base, people, events, audit

create table app.credit_accounts (
  user_id uuid primary key references app.users (id) on delete restrict,
  available bigint not null default 0,
  reserved bigint not null default 0,
  debt bigint not null default 0,
  updated_at timestamptz not null default app.now(),
  constraint credit_accounts_available_not_negative check (available >= 0),
  constraint credit_accounts_reserved_not_negative check (reserved >= 0),
  constraint credit_accounts_debt_not_negative check (debt >= 0),
  constraint credit_accounts_debt_or_available check (debt = 0 or available = 0)
);

create table app.credit_lots (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references app.users (id) on delete restrict,
  source text not null,
  is_paid boolean generated always as (source = 'purchase') stored,
  granted bigint not null,
  remaining bigint not null,
  expires_at timestamptz,
  idempotency_key text not null,
  reference text,
  created_at timestamptz not null default app.now(),
  constraint credit_lots_source
    check (source in ('purchase', 'signup', 'promo', 'gift', 'referral', 'adjustment')),
  constraint credit_lots_granted_positive check (granted > 0),
  constraint credit_lots_remaining_in_range check (remaining between 0 and granted),
  constraint credit_lots_idempotency_key unique (idempotency_key)
);
-- Spending order: the soonest to expire, then free, then paid.
create index credit_lots_spendable
  on app.credit_lots (user_id, expires_at, is_paid, created_at)
  where remaining > 0;
create index credit_lots_user_id on app.credit_lots (user_id);
create index credit_lots_due on app.credit_lots (expires_at) where remaining > 0;

create table app.reservations (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references app.users (id) on delete restrict,
  subject_id uuid not null,
  purpose text not null,
  amount bigint not null,
  state text not null default 'pending',
  confirmed_amount bigint,  -- what was spent of it in the end; the rest came back
  api_key_id uuid,  -- the key that spent it, where it was one
  created_at timestamptz not null default app.now(),
  resolved_at timestamptz,
  constraint reservations_subject unique (subject_id, purpose),
  constraint reservations_purpose check (purpose in ('run', 'late_image')),
  constraint reservations_amount_positive check (amount > 0),
  constraint reservations_state check (state in ('pending', 'confirmed', 'refunded')),
  constraint reservations_resolved check ((state = 'pending') = (resolved_at is null)),
  constraint reservations_confirmed_amount check (case state
    when 'pending' then confirmed_amount is null
    when 'refunded' then confirmed_amount is not distinct from 0
    else coalesce(confirmed_amount between 1 and amount, false) end)
);
create index reservations_user_id on app.reservations (user_id);
create index reservations_pending on app.reservations (user_id) where state = 'pending';
create index reservations_resolved_at on app.reservations (resolved_at)
  where resolved_at is not null;

create table app.reservation_lots (
  reservation_id uuid not null references app.reservations (id) on delete restrict,
  lot_id uuid not null references app.credit_lots (id) on delete restrict,
  amount bigint not null,
  primary key (reservation_id, lot_id),
  constraint reservation_lots_amount_positive check (amount > 0)
);
create index reservation_lots_lot_id on app.reservation_lots (lot_id);

-- One row moves `amount` from `debit` to `credit`, so each row balances by construction.
-- available, reserved and debt are the user's accounts; the others are the system's.
create table app.ledger_transfers (
  id bigint generated always as identity primary key,
  idempotency_key text not null,
  kind text not null,
  debit text not null,
  credit text not null,
  amount bigint not null,
  user_id uuid not null references app.users (id) on delete restrict,
  lot_id uuid references app.credit_lots (id) on delete restrict,
  reservation_id uuid references app.reservations (id) on delete restrict,
  subject_id uuid,
  lot_expires_at timestamptz,  -- of the lot after this row: proves a changed expiry
  reference text,  -- the payment that a grant came from or that a reversal undoes
  actor text not null default 'system',
  note text,
  created_at timestamptz not null default app.now(),
  digest bytea not null,  -- of all the columns above, so that a changed line names itself
  constraint ledger_transfers_idempotency_key unique (idempotency_key),
  constraint ledger_transfers_amount_positive check (amount > 0),
  constraint ledger_transfers_kind
    check (kind in (
      'grant', 'reserve', 'confirm', 'refund', 'expire', 'reverse', 'restore', 'adjust')),
  constraint ledger_transfers_accounts check (
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
  -- What is available lies in a lot, and a lot may pay debt; what is spent, a debt that arises and a
  -- debt that is forgiven have none. Only a reservation's lines have a reservation and its subject.
  constraint ledger_transfers_lot check (case
    when kind = 'restore' and debit = 'sales' and credit = 'debt' then true
    else (lot_id is null) = (kind = 'confirm' or (kind in ('reverse', 'adjust') and debit = 'debt'))
    end),
  constraint ledger_transfers_reservation check (
    (reservation_id is null) = (kind in ('grant', 'expire', 'reverse', 'restore', 'adjust'))
    and (reservation_id is null) = (subject_id is null))
);
create index ledger_transfers_user on app.ledger_transfers (user_id, id desc);
create index ledger_transfers_lot_id on app.ledger_transfers (lot_id);
create index ledger_transfers_reservation_id on app.ledger_transfers (reservation_id);
create index ledger_transfers_subject_id on app.ledger_transfers (subject_id);
-- What a payment's return took, and what paid a debt: both are looked up when it is restored.
create index ledger_transfers_reversals on app.ledger_transfers (reference)
  where kind in ('reverse', 'restore');
create index ledger_transfers_debt on app.ledger_transfers (user_id)
  where debit = 'debt' or credit = 'debt';

-- When credits are low, as data: changed by a migration or an admin's SQL, never by a caller.
create table app.balance_terms (
  id boolean primary key default true,
  low_credits bigint not null,
  constraint balance_terms_one_row check (id),
  constraint balance_terms_low_positive check (low_credits > 0)
);

alter table app.credit_accounts enable row level security;
alter table app.credit_accounts force row level security;
alter table app.credit_lots enable row level security;
alter table app.credit_lots force row level security;
alter table app.reservations enable row level security;
alter table app.reservations force row level security;
alter table app.reservation_lots enable row level security;
alter table app.reservation_lots force row level security;
alter table app.ledger_transfers enable row level security;
alter table app.ledger_transfers force row level security;
alter table app.balance_terms enable row level security;
alter table app.balance_terms force row level security;

revoke all on
  app.credit_accounts, app.credit_lots, app.reservations, app.reservation_lots,
  app.ledger_transfers, app.balance_terms
  from public, anon, authenticated, service_role;

grant select, insert, update (available, reserved, debt, updated_at)
  on app.credit_accounts to jewelshot_ledger;
grant select, insert, update (remaining, expires_at) on app.credit_lots to jewelshot_ledger;
grant select, insert, update (state, resolved_at, confirmed_amount)
  on app.reservations to jewelshot_ledger;
grant select, insert on app.reservation_lots to jewelshot_ledger;
grant select, insert on app.ledger_transfers to jewelshot_ledger;
grant select on
  app.credit_accounts, app.credit_lots, app.reservations, app.reservation_lots,
  app.ledger_transfers
  to jewelshot_user, jewelshot_admin, jewelshot_worker;
grant select on app.balance_terms to jewelshot_ledger, jewelshot_admin;

create policy credit_accounts_writer on app.credit_accounts to jewelshot_ledger
  using (true) with check (true);
create policy credit_accounts_own on app.credit_accounts for select to jewelshot_user
  using (user_id = (select app.current_user_id()));
create policy credit_accounts_admin on app.credit_accounts for select to jewelshot_admin
  using ((select app.is_admin()));
create policy credit_accounts_worker on app.credit_accounts for select to jewelshot_worker
  using (true);
create policy credit_lots_writer on app.credit_lots to jewelshot_ledger
  using (true) with check (true);
create policy credit_lots_own on app.credit_lots for select to jewelshot_user
  using (user_id = (select app.current_user_id()));
create policy credit_lots_admin on app.credit_lots for select to jewelshot_admin
  using ((select app.is_admin()));
create policy credit_lots_worker on app.credit_lots for select to jewelshot_worker using (true);
create policy reservations_writer on app.reservations to jewelshot_ledger
  using (true) with check (true);
create policy reservations_own on app.reservations for select to jewelshot_user
  using (user_id = (select app.current_user_id()));
create policy reservations_admin on app.reservations for select to jewelshot_admin
  using ((select app.is_admin()));
create policy reservations_worker on app.reservations for select to jewelshot_worker using (true);
create policy reservation_lots_writer on app.reservation_lots to jewelshot_ledger
  using (true) with check (true);
create policy reservation_lots_own on app.reservation_lots for select to jewelshot_user
  using (
    reservation_id in (
      select id from app.reservations where user_id = (select app.current_user_id())
    )
  );
create policy reservation_lots_admin on app.reservation_lots for select to jewelshot_admin
  using ((select app.is_admin()));
create policy reservation_lots_worker on app.reservation_lots for select to jewelshot_worker
  using (true);
create policy ledger_transfers_writer on app.ledger_transfers to jewelshot_ledger
  using (true) with check (true);
create policy ledger_transfers_own on app.ledger_transfers for select to jewelshot_user
  using (user_id = (select app.current_user_id()));
create policy ledger_transfers_admin on app.ledger_transfers for select to jewelshot_admin
  using ((select app.is_admin()));
create policy ledger_transfers_worker on app.ledger_transfers for select to jewelshot_worker
  using (true);
create policy balance_terms_reader on app.balance_terms for select to jewelshot_ledger
  using (true);
create policy balance_terms_admin on app.balance_terms for select to jewelshot_admin
  using ((select app.is_admin()));

create function app.seal_transfer()
  returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  new.digest := sha256(convert_to(concat(
    new.id, '|', new.kind, '|', new.debit, '|', new.credit, '|', new.amount, '|', new.user_id, '|',
    new.lot_id, '|', new.reservation_id, '|', new.subject_id, '|',
    quote_literal(new.idempotency_key), quote_nullable(new.reference), quote_literal(new.actor),
    quote_nullable(new.note)), 'utf8')
    || timestamptz_send(new.created_at)
    || coalesce(timestamptz_send(new.lot_expires_at), ''));
  return new;
end $$;
comment on function app.seal_transfer is
$$app.reconcile() has the same expression: a function of it would cost five times as much there.$$;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.lock_account(p_user_id uuid)
  returns app.credit_accounts
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_account app.credit_accounts;
begin
  select *
  into v_account
  from app.credit_accounts
  where user_id = p_user_id
  for no key update;
  if not found then
    raise exception 'no credit account'
      using errcode = 'JS404', detail = '{"kind": "credit_account"}';
  end if;
  return v_account;
end $$;
comment on function app.lock_account is
$$Locks a user's money and returns the row. Locks: account. Errors: JS404.$$;

create function app.require_positive(p_amount bigint)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  if coalesce(p_amount, 0) <= 0 then
    raise exception 'an amount is positive'
      using errcode = 'JS422', detail = '{"field": "amount", "reason": "not_positive"}';
  end if;
end $$;
comment on function app.require_positive is
$$Errors: JS422 for an amount that is no positive number.$$;

create function app.move_balance(
  p_user_id uuid, p_available bigint, p_reserved bigint, p_debt bigint
)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.credit_accounts
  set available = available + p_available,
    reserved = reserved + p_reserved,
    debt = debt + p_debt,
    updated_at = app.now()
  where user_id = p_user_id
$$;
comment on function app.move_balance is
$$Moves a locked account's balances by the given amounts. Locks: none of its own.$$;

create function app.take_from_lots(
  p_user_id uuid, p_amount bigint, p_kind text, p_credit text, p_key_prefix text,
  p_reservation_id uuid, p_subject_id uuid, p_actor text, p_note text, p_first_reference text
)
  returns bigint
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_taken bigint;
begin
  with ordered as (
    select id,
      remaining,
      sum(remaining) over (
        order by coalesce(reference = p_first_reference, false) desc,
          expires_at nulls last, is_paid, created_at, id
      ) - remaining as taken_before
    from app.credit_lots
    where user_id = p_user_id
      and remaining > 0
  ), parts as (
    select id, least(remaining, p_amount - taken_before) as amount
    from ordered
    where taken_before < p_amount
  ), reduced as (
    update app.credit_lots as lot
    set remaining = lot.remaining - parts.amount
    from parts
    where lot.id = parts.id
    returning lot.id, parts.amount, lot.expires_at
  ), linked as (
    insert into app.reservation_lots (reservation_id, lot_id, amount)
    select p_reservation_id, id, amount
    from reduced
    where p_reservation_id is not null
  ), posted as (
    insert into app.ledger_transfers (
      idempotency_key, kind, debit, credit, amount, user_id, lot_id, reservation_id, subject_id,
      lot_expires_at, reference, actor, note
    )
    select p_key_prefix || ':' || id, p_kind, 'available', p_credit, amount,
      p_user_id, id, p_reservation_id, p_subject_id, expires_at, p_first_reference, p_actor, p_note
    from reduced
    returning amount
  )
  select coalesce(sum(amount), 0)
  into v_taken
  from posted;
  return v_taken;
end $$;
comment on function app.take_from_lots is
$$Takes up to p_amount from a locked account's lots in spending order, posts one transfer a lot
and returns what was taken. p_first_reference: lots of that purchase go first (a reversal).
Locks: lots, under the account's. Replay: the caller's keys, one prefix a call.$$;

create function app.expire_due_lots(p_user_id uuid)
  returns bigint
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_expired bigint;
begin
  with due as (
    select id, remaining, expires_at
    from app.credit_lots
    where user_id = p_user_id
      and remaining > 0
      and expires_at <= app.now()
  ), emptied as (
    update app.credit_lots as lot
    set remaining = 0
    from due
    where lot.id = due.id
  ), posted as (
    insert into app.ledger_transfers (
      idempotency_key, kind, debit, credit, amount, user_id, lot_id, lot_expires_at
    )
    select 'expire:' || id || ':' || extract(epoch from expires_at),
      'expire', 'available', 'expired', remaining, p_user_id, id, expires_at
    from due
    returning amount
  )
  select coalesce(sum(amount), 0)
  into v_expired
  from posted;
  if v_expired > 0 then
    perform app.move_balance(p_user_id, -v_expired, 0, 0);
    perform app.emit(
      p_user_id, 'credits.expired', p_user_id, null, jsonb_build_object('credits', v_expired));
  end if;
  return v_expired;
end $$;
comment on function app.expire_due_lots is
$$Expires a locked account's lots that are past their time; reserved credits do not expire.
Locks: lots, under the account's. Replay: the key carries the lot and its expiry.$$;

create function app.expiry_of_returned(p_lot app.credit_lots)
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
comment on function app.expiry_of_returned is
$$Until when a lot is good that credits come back to: one that has expired lives on seven days. Whether
it has says the ledger too, because whoever waited for the account may have begun before it expired.$$;

create function app.reserve(p_user_id uuid, p_amount bigint, p_purpose text, p_subject_id uuid)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_account app.credit_accounts := app.lock_account(p_user_id);
  v_available bigint;
  v_existing app.reservations;
  v_id uuid;
begin
  select *
  into v_existing
  from app.reservations
  where subject_id = p_subject_id
    and purpose = p_purpose;
  if found then
    if v_existing.user_id <> p_user_id or v_existing.amount <> p_amount then
      raise exception 'reservation replayed with other terms'
        using errcode = 'JS500', detail = jsonb_build_object('subject_id', p_subject_id)::text;
    end if;
    return v_existing.id;
  end if;
  v_available := v_account.available - app.expire_due_lots(p_user_id);
  if v_account.debt > 0 or v_available < p_amount then
    raise exception 'not enough credits'
      using errcode = 'JS402', detail = jsonb_build_object(
        'required', p_amount, 'available', v_available, 'debt', v_account.debt)::text;
  end if;
  insert into app.reservations (user_id, subject_id, purpose, amount)
  values (p_user_id, p_subject_id, p_purpose, p_amount)
  returning id into v_id;
  perform app.take_from_lots(
    p_user_id, p_amount, 'reserve', 'reserved', 'reserve:' || p_purpose || ':' || p_subject_id,
    v_id, p_subject_id, 'user', null, null);
  perform app.move_balance(p_user_id, -p_amount, p_amount, 0);
  return v_id;
end $$;
comment on function app.reserve is
$$Sets p_amount aside for (subject, purpose) and returns the reservation's id.
Locks: account, lots. Errors: JS402 {required, available, debt}, JS404, JS500.
Replay: the same subject, purpose, user and amount return the same id; other amounts JS500.$$;

create function app.confirm(p_user_id uuid, p_purpose text, p_subject_id uuid)
  returns boolean
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_reservation app.reservations;
begin
  perform app.lock_account(p_user_id);
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
  if v_reservation.state = 'confirmed' then
    return false;
  end if;
  if v_reservation.state = 'refunded' then
    raise exception 'reservation was refunded'
      using errcode = 'JS409', detail = '{"reason": "reservation_refunded"}';
  end if;
  update app.reservations
  set state = 'confirmed', resolved_at = app.now(), confirmed_amount = amount
  where id = v_reservation.id;
  insert into app.ledger_transfers (
    idempotency_key, kind, debit, credit, amount, user_id, reservation_id, subject_id
  )
  values ('confirm:' || p_purpose || ':' || p_subject_id, 'confirm', 'reserved', 'usage',
    v_reservation.amount, p_user_id, v_reservation.id, p_subject_id);
  perform app.move_balance(p_user_id, 0, -v_reservation.amount, 0);
  return true;
end $$;
comment on function app.confirm is
$$Spends a pending reservation. Returns false when it already was confirmed (replay).
Locks: account, reservation. Errors: JS404, JS409 {reason: refunded}.$$;

create function app.refund(
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
comment on function app.refund is
$$Refunds a pending reservation, but for the share that is charged, which is confirmed: debt first,
the rest to its lots; a lot that has expired meanwhile is extended by seven days. Returns false when
it already ended so (replay). Locks: account, reservation, lots.
Errors: JS404, JS409 {reason: it ended otherwise}, JS500 (the share is the whole or more).$$;

create function app.grant_credits(
  p_user_id uuid, p_amount bigint, p_source text, p_key text,
  p_expires_at timestamptz default null, p_reference text default null,
  p_actor text default 'system', p_note text default null
)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_account app.credit_accounts := app.lock_account(p_user_id);
  v_existing app.credit_lots;
  v_to_debt bigint;
  v_lot_id uuid;
  v_debit text := case p_source
    when 'purchase' then 'sales' when 'adjustment' then 'adjustments' else p_source end;
begin
  perform app.require_positive(p_amount);
  select *
  into v_existing
  from app.credit_lots
  where idempotency_key = p_key;
  if found then
    if v_existing.user_id <> p_user_id or v_existing.granted <> p_amount
      or v_existing.source <> p_source
    then
      raise exception 'grant replayed with other terms'
        using errcode = 'JS500', detail = jsonb_build_object('idempotency_key', p_key)::text;
    end if;
    return v_existing.id;
  end if;
  v_to_debt := least(v_account.debt, p_amount);
  insert into app.credit_lots (
    user_id, source, granted, remaining, expires_at, idempotency_key, reference
  )
  values (p_user_id, p_source, p_amount, p_amount - v_to_debt, p_expires_at, p_key, p_reference)
  returning id into v_lot_id;
  insert into app.ledger_transfers (
    idempotency_key, kind, debit, credit, amount, user_id, lot_id, lot_expires_at, reference,
    actor, note
  )
  select 'grant:' || p_key || ':' || part.credit, 'grant', v_debit, part.credit, part.amount,
    p_user_id, v_lot_id, p_expires_at, p_reference, p_actor, p_note
  from (values ('debt', v_to_debt), ('available', p_amount - v_to_debt)) as part (credit, amount)
  where part.amount > 0;
  perform app.move_balance(p_user_id, p_amount - v_to_debt, 0, -v_to_debt);
  return v_lot_id;
end $$;
comment on function app.grant_credits is
$$Gives credits as a new lot; debt is paid first. Returns the lot's id.
Locks: account. Errors: JS404, JS422 {field}, JS500 (key reused with other terms).
Replay: the same key, user, amount and source return the same lot.$$;

create function app.claw_back(
  p_user_id uuid, p_amount bigint, p_kind text, p_credit text, p_key text,
  p_first_reference text, p_actor text, p_note text
)
  returns bigint
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_account app.credit_accounts := app.lock_account(p_user_id);
  v_posted bigint;
  v_taken bigint;
begin
  perform app.require_positive(p_amount);
  -- By the keys it would have written, because a user's history may be long.
  select sum(amount)
  into v_posted
  from app.ledger_transfers
  where user_id = p_user_id
    and idempotency_key = any (array(
      select p_kind || ':' || p_key || ':' || place.name
      from (
        select id::text
        from app.credit_lots
        where user_id = p_user_id
        union all
        select 'debt'
      ) as place (name)
    ));
  if v_posted is not null then
    if v_posted <> p_amount then
      raise exception '% replayed with another amount', p_kind
        using errcode = 'JS500', detail = jsonb_build_object('idempotency_key', p_key)::text;
    end if;
    return v_account.debt;
  end if;
  perform app.expire_due_lots(p_user_id);
  v_taken := app.take_from_lots(
    p_user_id, p_amount, p_kind, p_credit, p_kind || ':' || p_key,
    null, null, p_actor, p_note, p_first_reference);
  if v_taken < p_amount then
    insert into app.ledger_transfers (
      idempotency_key, kind, debit, credit, amount, user_id, reference, actor, note
    )
    values (p_kind || ':' || p_key || ':debt', p_kind, 'debt', p_credit, p_amount - v_taken,
      p_user_id, p_first_reference, p_actor, p_note);
  end if;
  perform app.move_balance(p_user_id, -v_taken, 0, p_amount - v_taken);
  return v_account.debt + p_amount - v_taken;
end $$;
comment on function app.claw_back is
$$Takes p_amount away from a user, first from lots and the rest as debt; returns the new debt.
Shared by reverse and adjust. Locks: account, lots. Errors: JS404, JS422 {field}, JS500.
Replay: the same key and amount do nothing; another amount JS500.$$;

create function app.reverse_credits(
  p_user_id uuid, p_amount bigint, p_key text, p_reference text, p_note text default null
)
  returns bigint
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select app.claw_back(
    p_user_id, p_amount, 'reverse', 'sales', p_key, p_reference, 'system', p_note)
$$;
comment on function app.reverse_credits is
$$Undoes p_amount of a purchase whose money went back; what was spent becomes debt.
Locks, errors, replay: as claw_back. Returns the account's debt afterwards.$$;

create function app.post_restore(
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
comment on function app.post_restore is
$$One line of a restore, and what it puts into its lot; nothing for an amount of 0. A lot that has
expired meanwhile is extended by seven days. Locks: the lot, under the account's.$$;

create function app.return_payers_of_debt(
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
comment on function app.return_payers_of_debt is
$$Gives credits that paid a debt back to their lots, the last payer first, because that debt is not
owed after all. Locks: lots, under the account's. Errors: JS500.$$;

create function app.restore_credits(
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
comment on function app.restore_credits is
$$Gives back p_amount of what reverse_credits took for p_reference, to where each part came from: the
debt that it made is not owed, and what paid that debt meanwhile goes back to its lots; then each
lot's own part, the lots of the payment itself last, as a smaller reversal would have left them.
No lot is made, so nothing changes its source: free credits stay free and keep their expiry; a lot
that has expired meanwhile lives on seven days. A debt that is left is paid first.
Returns the account's debt afterwards. Locks: account, lots. Errors: JS404, JS422 {field}, JS500.
Replay: the same key and amount do nothing; another amount JS500.$$;

create function app.expire_credits(p_accounts_max integer)
  returns bigint
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid;
  v_total bigint := 0;
begin
  for v_user_id in
    select distinct user_id
    from app.credit_lots
    where remaining > 0
      and expires_at <= app.now()
    order by user_id
    limit p_accounts_max
  loop
    perform app.lock_account(v_user_id);
    v_total := v_total + app.expire_due_lots(v_user_id);
  end loop;
  return v_total;
end $$;
comment on function app.expire_credits is
$$Every lot past its time, account by account in ascending id. Returns the credits expired.
Locks: accounts, lots. Replay: nothing is left to expire.$$;

create function app.adjust_credits(p_user_id uuid, p_amount bigint, p_reason text, p_key text)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_account app.credit_accounts;
  v_actor text := coalesce(app.claims() ->> 'sub', 'break-glass');
  v_key text := 'admin:' || p_user_id || ':' || p_key;
  v_terms jsonb := jsonb_build_object(
    'amount', p_amount, 'reason', p_reason, 'idempotency_key', p_key);
  v_earlier jsonb;
begin
  perform app.require_fresh_admin();
  if coalesce(p_amount, 0) = 0 or coalesce(trim(p_reason), '') = ''
    or coalesce(p_key, '') = ''
  then
    raise exception 'an adjustment has an amount, a reason and a key'
      using errcode = 'JS422', detail = jsonb_build_object(
        'field', case when coalesce(p_amount, 0) = 0 then 'amount'
          when coalesce(trim(p_reason), '') = '' then 'reason' else 'idempotency_key' end,
        'reason', 'required')::text;
  end if;
  perform app.lock_account(p_user_id);
  select told.detail
  into v_earlier
  from app.audit_log as line
  join app.audit_details as told on told.audit_id = line.id
  where line.action = 'credits.adjust'
    and line.target = p_user_id::text
    and told.detail ->> 'idempotency_key' = p_key;
  if v_earlier <> v_terms then
    raise exception 'adjustment key used with other terms' using errcode = 'JS432';
  end if;
  if v_earlier is null then
    if p_amount > 0 then
      perform app.grant_credits(
        p_user_id, p_amount, 'adjustment', v_key, null, null, v_actor, p_reason);
    else
      perform app.claw_back(
        p_user_id, -p_amount, 'adjust', 'adjustments', v_key, null, v_actor, p_reason);
    end if;
    perform app.emit(
      p_user_id, 'credits.adjusted', p_user_id, null, jsonb_build_object('credits', p_amount));
    perform app.write_audit('credits.adjust', p_user_id::text, v_terms);
  end if;
  select *
  into v_account
  from app.credit_accounts
  where user_id = p_user_id;
  return jsonb_build_object('available', v_account.available, 'reserved', v_account.reserved,
    'debt', v_account.debt);
end $$;
comment on function app.adjust_credits is
$$An admin's correction, up or down; down may create debt. Audited in the same transaction.
Returns {available, reserved, debt}. Locks: account, lots. Errors: JS403, JS404,
JS422 {field}, JS432 (key used with other terms). Replay: the same key does nothing more.
A key counts for one user; the audit row holds its terms, up or down.$$;

create function app.note_low_balance()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before bigint := old.available + old.reserved;
  v_left bigint := new.available + new.reserved;
  v_low bigint;
begin
  select low_credits
  into v_low
  from app.balance_terms;
  if v_left = 0 or (v_left <= v_low and v_before > v_low) then
    perform app.emit(
      new.user_id, case v_left when 0 then 'credits.ran_out' else 'credits.ran_low' end,
      new.user_id, null,
      jsonb_build_object('available', new.available, 'reserved', new.reserved,
        'low_credits', v_low));
  end if;
  return null;
end $$;
comment on function app.note_low_balance is
$$One event when what is left falls to the low mark, another when it falls to nothing; straight to
nothing is that one alone. What is left are available *and* reserved credits: reserved ones
may be refunded, so neither reserving nor refunding emits an event, however often a person
tries; only credits that were spent, expired or clawed back cross a mark, and only credits that
come in rise above it again. Only the figures before and after are compared, under the account's
lock, so that each crossing is found once and no state is needed.
Locks: none of its own.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function app.expire_credits(integer) to jewelshot_worker;
grant execute on function app.adjust_credits(uuid, bigint, text, text) to jewelshot_admin;

create trigger ledger_transfers_seal
  before insert on app.ledger_transfers
  for each row execute function app.seal_transfer();
create trigger ledger_transfers_append_only
  before update or delete on app.ledger_transfers
  for each statement execute function app.refuse_change();
create trigger ledger_transfers_no_truncate
  before truncate on app.ledger_transfers
  for each statement execute function app.refuse_change();
-- The condition keeps the trigger out of every reservation and refund: no function is called.
create trigger credit_accounts_note_low_balance
  after update of available, reserved on app.credit_accounts
  for each row
  when (new.available + new.reserved < old.available + old.reserved)
  execute function app.note_low_balance();

create function app.prove_ledger()
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
comment on function app.prove_ledger is
$$The proof of the ledger: every row that does not follow from the others; none means that it
balances.
Where two sources contradict each other both are named; a line whose digest is wrong, and a
balance on which two others agree, are the ones to check first.
Owned by the migrating role, which bypasses row level security; row_security = off makes a role
that would be filtered raise instead of seeing nothing. It reads every table whole: the planner's walks
along an index took four times as long (1 M transfers).$$;

grant execute on function app.prove_ledger() to jewelshot_worker;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.credits_figures()
  returns table (name text, labels jsonb, value double precision)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select 'jewelshot_credits_reserved', '{}'::jsonb, coalesce(sum(amount), 0)::double precision
  from app.reservations
  where state = 'pending'
  union all
  select 'jewelshot_credits_' || known.state || '_last_hour', '{}',
    coalesce(sum(reservation.amount), 0)
  from (values ('confirmed'), ('refunded')) as known (state)
  left join app.reservations as reservation
    on reservation.state = known.state
    and reservation.resolved_at > app.now() - interval '1 hour'
  group by known.state
$$;
comment on function app.credits_figures is
$$Gauges and counters of credits for /metrics as (name, labels, value).$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.credits_figures()
  to jewelshot_api;

create function app.prove_signups()
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
comment on function app.prove_signups is
$$Free credits were given once a person, and nowhere but in the ledger; nobody has any without it.
Owned by the migrating role, which bypasses row level security; row_security = off makes a role
that would be filtered raise instead of seeing nothing.$$;

create function app.prove_adjustments()
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
comment on function app.prove_adjustments is
$$Every correction, up or down, has its line in the audit log with the same terms, and each such line
its correction. No door gives credits of a source that is named here nowhere: who adds one adds its
proof. Owned by the migrating role, which bypasses row level security; row_security = off makes a
role that would be filtered raise instead of seeing nothing.$$;

create function app.prove_restores()
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
comment on function app.prove_restores is
$$What was restored after a reversal went to the lots that it had been taken from, and no more than was
taken; a lot gets no more back of a debt than it paid. So no restore gives credits another source.
Owned by the migrating role, which bypasses row level security; row_security = off makes a role
that would be filtered raise instead of seeing nothing.$$;

grant execute on function
  app.prove_signups(),
  app.prove_adjustments(),
  app.prove_restores()
  to jewelshot_worker;
