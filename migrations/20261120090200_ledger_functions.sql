-- The functions that move credits. All are security definer, owned by jewelshot_ledger, which is
-- neither the owner of the tables nor able to log in. A definer sees all rows, so each look-up
-- names the user. Building blocks are granted to nobody: only functions of the same owner call them.

-- Locks a user's money and returns the row. Locks: account. Errors: JS404.
create function app.lock_account(p_user_id uuid)
  returns app.credit_accounts
  language plpgsql
  security definer
  set search_path = ''
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

-- Errors: JS422 for an amount that is no positive number.
create function app.require_positive(p_amount bigint)
  returns void
  language plpgsql
  set search_path = ''
as $$
begin
  if coalesce(p_amount, 0) <= 0 then
    raise exception 'an amount is positive'
      using errcode = 'JS422', detail = '{"field": "amount", "reason": "not_positive"}';
  end if;
end $$;

-- Moves a locked account's balances by the given amounts. Locks: none of its own.
create function app.move_balance(
  p_user_id uuid, p_available bigint, p_reserved bigint, p_debt bigint
)
  returns void
  language sql
  security definer
  set search_path = ''
as $$
  update app.credit_accounts
  set available = available + p_available,
    reserved = reserved + p_reserved,
    debt = debt + p_debt,
    updated_at = now()
  where user_id = p_user_id
$$;

-- Takes up to p_amount from a locked account's lots in spending order, posts one transfer a lot
-- and returns what was taken. p_first_reference: lots of that purchase go first (a reversal).
-- Locks: lots, under the account's. Replay: the caller's keys, one prefix a call.
create function app.take_from_lots(
  p_user_id uuid, p_amount bigint, p_kind text, p_credit text, p_key_prefix text,
  p_reservation_id uuid, p_subject_id uuid, p_actor text, p_note text, p_first_reference text
)
  returns bigint
  language plpgsql
  security definer
  set search_path = ''
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

-- Expires a locked account's lots that are past their time; reserved credits do not expire.
-- Locks: lots, under the account's. Replay: the key carries the lot and its expiry.
create function app.expire_due_lots(p_user_id uuid)
  returns bigint
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_expired bigint;
begin
  with due as (
    select id, remaining, expires_at
    from app.credit_lots
    where user_id = p_user_id
      and remaining > 0
      and expires_at <= now()
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
  end if;
  return v_expired;
end $$;

-- Sets p_amount aside for (subject, purpose) and returns the reservation's id.
-- Locks: account, lots. Errors: JS402 {required, available, debt}, JS404, JS500.
-- Replay: the same subject, purpose, user and amount return the same id; other amounts JS500.
create function app.reserve(p_user_id uuid, p_amount bigint, p_purpose text, p_subject_id uuid)
  returns uuid
  language plpgsql
  security definer
  set search_path = ''
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

-- Spends a pending reservation. Returns false when it already was confirmed (replay).
-- Locks: account, reservation. Errors: JS404, JS409 {reason: refunded}.
create function app.confirm(p_user_id uuid, p_purpose text, p_subject_id uuid)
  returns boolean
  language plpgsql
  security definer
  set search_path = ''
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
  set state = 'confirmed', resolved_at = now()
  where id = v_reservation.id;
  insert into app.ledger_transfers (
    idempotency_key, kind, debit, credit, amount, user_id, reservation_id, subject_id
  )
  values ('confirm:' || p_purpose || ':' || p_subject_id, 'confirm', 'reserved', 'usage',
    v_reservation.amount, p_user_id, v_reservation.id, p_subject_id);
  perform app.move_balance(p_user_id, 0, -v_reservation.amount, 0);
  return true;
end $$;

-- Gives a pending reservation back: debt first, the rest to its lots; a lot that has expired
-- meanwhile lives on seven days. Returns false when it already was refunded (replay).
-- Locks: account, reservation, lots. Errors: JS404, JS409 {reason: confirmed}.
create function app.refund(p_user_id uuid, p_purpose text, p_subject_id uuid)
  returns boolean
  language plpgsql
  security definer
  set search_path = ''
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
  -- What is left of an expired lot goes first: only what comes back lives on.
  perform app.expire_due_lots(p_user_id);
  update app.reservations
  set state = 'refunded', resolved_at = now()
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
        when lot.expires_at <= now() then now() + interval '7 days' else lot.expires_at end
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

-- Gives credits as a new lot; debt is paid first. Returns the lot's id.
-- Locks: account. Errors: JS404, JS422 {field}, JS500 (key reused with other terms).
-- Replay: the same key, user, amount and source return the same lot.
create function app.grant_credits(
  p_user_id uuid, p_amount bigint, p_source text, p_key text,
  p_expires_at timestamptz default null, p_reference text default null,
  p_actor text default 'system', p_note text default null
)
  returns uuid
  language plpgsql
  security definer
  set search_path = ''
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

-- Takes p_amount away from a user, first from lots and the rest as debt; returns the new debt.
-- Shared by reverse and adjust. Locks: account, lots. Errors: JS404, JS422 {field}, JS500.
-- Replay: the same key and amount do nothing; another amount JS500.
create function app.take_back(
  p_user_id uuid, p_amount bigint, p_kind text, p_credit text, p_key text,
  p_first_reference text, p_actor text, p_note text
)
  returns bigint
  language plpgsql
  security definer
  set search_path = ''
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

-- Undoes p_amount of a purchase whose money went back; what was spent becomes debt.
-- Locks, errors, replay: as take_back. Returns the account's debt afterwards.
create function app.reverse_credits(
  p_user_id uuid, p_amount bigint, p_key text, p_reference text, p_note text default null
)
  returns bigint
  language sql
  security definer
  set search_path = ''
as $$
  select app.take_back(
    p_user_id, p_amount, 'reverse', 'sales', p_key, p_reference, 'system', p_note)
$$;

-- Every lot past its time, account by account in ascending id. Returns the credits expired.
-- Locks: accounts, lots. Replay: nothing is left to expire.
create function app.expire_credits(p_accounts_max integer)
  returns bigint
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_user_id uuid;
  v_total bigint := 0;
begin
  for v_user_id in
    select distinct user_id
    from app.credit_lots
    where remaining > 0
      and expires_at <= now()
    order by user_id
    limit p_accounts_max
  loop
    perform app.lock_account(v_user_id);
    v_total := v_total + app.expire_due_lots(v_user_id);
  end loop;
  return v_total;
end $$;

-- Functions change hands: the ledger's role may create in the schema only meanwhile.
grant create on schema app to jewelshot_ledger;
alter function app.lock_account(uuid) owner to jewelshot_ledger;
alter function app.require_positive(bigint) owner to jewelshot_ledger;
alter function app.move_balance(uuid, bigint, bigint, bigint) owner to jewelshot_ledger;
alter function app.take_from_lots(uuid, bigint, text, text, text, uuid, uuid, text, text, text)
  owner to jewelshot_ledger;
alter function app.expire_due_lots(uuid) owner to jewelshot_ledger;
alter function app.reserve(uuid, bigint, text, uuid) owner to jewelshot_ledger;
alter function app.confirm(uuid, text, uuid) owner to jewelshot_ledger;
alter function app.refund(uuid, text, uuid) owner to jewelshot_ledger;
alter function app.grant_credits(uuid, bigint, text, text, timestamptz, text, text, text)
  owner to jewelshot_ledger;
alter function app.take_back(uuid, bigint, text, text, text, text, text, text)
  owner to jewelshot_ledger;
alter function app.reverse_credits(uuid, bigint, text, text, text) owner to jewelshot_ledger;
alter function app.expire_credits(integer) owner to jewelshot_ledger;
revoke create on schema app from jewelshot_ledger;

revoke all on all functions in schema app from public;
grant execute on function
  app.grant_credits(uuid, bigint, text, text, timestamptz, text, text, text),
  app.reverse_credits(uuid, bigint, text, text, text),
  app.expire_credits(integer)
  to jewelshot_worker;
