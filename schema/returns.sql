-- Money that goes back: returns that we request, and the mirror of the provider's returns and
-- disputes. On the wire a return of money is called a refund; in SQL and code a refund is credits.
-- Lock order: account, order, task.
-- after: base, people, credits, audit, tasks, orders

-- Ours from the moment they are requested, and those that were made at the provider.
create table app.payment_returns (
  id uuid primary key default gen_random_uuid(),
  order_id uuid not null references app.orders (id) on delete restrict,
  user_id uuid not null references app.users (id) on delete restrict,
  amount bigint not null,
  credits bigint,  -- how many the buyer named; null: all that were unused
  currency text not null,
  origin text not null,
  reason text,
  state text not null default 'requested',
  attempt integer not null default 1,
  provider_payment_id text,  -- what it goes back of; null: the payment that the order was granted for
  provider_return_id text,
  credit_note_id text,  -- of the invoice that the order was paid by
  credit_note_refused text,  -- why there is none
  failure_reason text,
  idempotency_key text,
  created_at timestamptz not null default app.now(),
  updated_at timestamptz not null default app.now(),
  constraint payment_returns_provider_return_id unique (provider_return_id),
  constraint payment_returns_idempotency_key unique (order_id, idempotency_key),
  constraint payment_returns_amount_positive check (amount > 0),
  constraint payment_returns_origin check (origin in ('buyer', 'admin', 'stripe')),
  constraint payment_returns_state check (state in (
    'requested', 'pending', 'requires_action', 'succeeded', 'failed', 'canceled', 'refused'))
);
create index payment_returns_order_id on app.payment_returns (order_id);
create index payment_returns_user on app.payment_returns (user_id, created_at desc, id desc);
create index payment_returns_requested on app.payment_returns (created_at)
  where state = 'requested';

-- Open and lost ones hold their amount; of the others the money is, or stays, ours.
create table app.payment_disputes (
  dispute_id text primary key,
  order_id uuid not null references app.orders (id) on delete restrict,
  user_id uuid not null references app.users (id) on delete restrict,
  provider_payment_id text,  -- null: the payment that the order was granted for
  amount bigint not null,
  state text not null,
  reason text,
  is_answer_due boolean not null default false,  -- the bank waits for the shop's evidence
  evidence_due_at timestamptz,
  acknowledged_at timestamptz,  -- an admin knows, and decides what is answered
  created_at timestamptz not null default app.now(),
  updated_at timestamptz not null default app.now(),
  constraint payment_disputes_state check (state in ('inquiry', 'open', 'won', 'lost', 'prevented'))
);
create index payment_disputes_order_id on app.payment_disputes (order_id);
create index payment_disputes_user_id on app.payment_disputes (user_id);
create index payment_disputes_created on app.payment_disputes (created_at desc, dispute_id desc);

-- Banks' reports of fraud. Most become disputes; a full refund before costs no fee.
create table app.fraud_warnings (
  warning_id text primary key,
  order_id uuid not null references app.orders (id) on delete restrict,
  user_id uuid not null references app.users (id) on delete restrict,
  provider_payment_id text,
  fraud_type text not null,
  is_actionable boolean not null,  -- not refunded in full, not disputed
  acknowledged_at timestamptz,
  created_at timestamptz not null default app.now(),
  updated_at timestamptz not null default app.now()
);
create index fraud_warnings_order_id on app.fraud_warnings (order_id);
create index fraud_warnings_user_id on app.fraud_warnings (user_id);
create index fraud_warnings_created on app.fraud_warnings (created_at desc, warning_id desc);

alter table app.payment_returns enable row level security;
alter table app.payment_returns force row level security;
alter table app.payment_disputes enable row level security;
alter table app.payment_disputes force row level security;
alter table app.fraud_warnings enable row level security;
alter table app.fraud_warnings force row level security;

revoke all on
  app.payment_returns, app.payment_disputes, app.fraud_warnings
  from public, anon, authenticated, service_role;

grant select, insert, update on app.payment_returns to jewelshot_ledger;
grant select on app.payment_returns to jewelshot_user, jewelshot_admin, jewelshot_worker;
grant select, insert, update on app.payment_disputes to jewelshot_ledger;
grant select on app.payment_disputes to jewelshot_user, jewelshot_admin, jewelshot_worker;
grant select, insert, update on app.fraud_warnings to jewelshot_ledger;
grant select on app.fraud_warnings to jewelshot_admin;

create policy payment_returns_writer on app.payment_returns to jewelshot_ledger
  using (true) with check (true);
create policy payment_returns_own on app.payment_returns for select to jewelshot_user
  using (user_id = (select app.current_user_id()));
create policy payment_returns_admin on app.payment_returns for select to jewelshot_admin
  using ((select app.is_admin()));
create policy payment_returns_worker on app.payment_returns for select to jewelshot_worker
  using (true);
create policy payment_disputes_writer on app.payment_disputes to jewelshot_ledger
  using (true) with check (true);
create policy payment_disputes_own on app.payment_disputes for select to jewelshot_user
  using (user_id = (select app.current_user_id()));
create policy payment_disputes_admin on app.payment_disputes for select to jewelshot_admin
  using ((select app.is_admin()));
create policy payment_disputes_worker on app.payment_disputes for select to jewelshot_worker
  using (true);
create policy fraud_warnings_writer on app.fraud_warnings to jewelshot_ledger
  using (true) with check (true);
create policy fraud_warnings_admin on app.fraud_warnings for select to jewelshot_admin
  using ((select app.is_admin()));

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.is_buying_stopped(p_user_id uuid, p_card_fingerprint text, p_order_id uuid)
  returns boolean
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  with counted as (
    select disputes.user_id, orders.card_fingerprint
    from app.payment_disputes as disputes
    join app.orders on orders.id = disputes.order_id
    where disputes.state in ('open', 'lost')
      and disputes.order_id is distinct from p_order_id
  ), cards as (
    select p_card_fingerprint as fingerprint
    where p_card_fingerprint is not null
    union
    select card_fingerprint
    from app.orders
    where user_id = p_user_id
      and card_fingerprint is not null
  )
  select exists (
    select
    from app.payment_terms as terms
    where terms.disputes_max <= (select count(*) from counted where user_id = p_user_id)
      or exists (
        select
        from cards
        where terms.disputes_max <= (
            select count(*) from counted where card_fingerprint = cards.fingerprint)
          and 4 * (select count(*) from counted where card_fingerprint = cards.fingerprint) >= (
            select count(*) from app.orders where card_fingerprint = cards.fingerprint)))
$$;
comment on function app.is_buying_stopped is
$$Whether somebody, or the card of a payment, has so many open or lost disputes that nothing more is
sold, other accounts that paid with the same card included. A card is judged where a quarter of its
payments is disputed, so that one which many share, such as a test card, is not stopped by two.
Disputes of p_order_id itself do not count.$$;

create function app.mirror_returns(p_order app.orders, p_returns jsonb)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_return record;
begin
  for v_return in
    select *
    from jsonb_to_recordset(p_returns) as fetched (
      id text, payment_id text, amount bigint, state text, reason text, failure_reason text,
      return_id uuid)
  loop
    update app.payment_returns
    set provider_return_id = v_return.id,
      amount = v_return.amount,
      state = v_return.state,
      failure_reason = v_return.failure_reason,
      updated_at = app.now()
    where order_id = p_order.id
      and (provider_return_id = v_return.id
        or (provider_return_id is null and id = v_return.return_id));
    if not found then
      insert into app.payment_returns (
        order_id, user_id, amount, currency, origin, reason, state, provider_payment_id,
        provider_return_id, failure_reason
      )
      values (p_order.id, p_order.user_id, v_return.amount, p_order.currency, 'stripe',
        v_return.reason, v_return.state, v_return.payment_id, v_return.id,
        v_return.failure_reason);
    end if;
  end loop;
  perform app.add_task('return.note', jsonb_build_object('return_id', noted.id), noted.id::text)
  from app.payment_returns as noted
  join app.orders on orders.id = noted.order_id
  where noted.order_id = p_order.id
    and noted.state = 'succeeded'
    and noted.credit_note_id is null
    and noted.credit_note_refused is null
    and orders.invoice_id is not null
    and coalesce(noted.provider_payment_id, orders.provider_payment_id)
      = orders.provider_payment_id;
end $$;
comment on function app.mirror_returns is
$$Mirrors the provider's returns of an order, and has a credit note written for each that has reached
its buyer. One of ours is known by the return_id that it was made with.$$;

create function app.mirror_disputes(p_order app.orders, p_disputes jsonb)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  insert into app.payment_disputes (
    dispute_id, order_id, user_id, provider_payment_id, amount, state, reason, is_answer_due,
    evidence_due_at
  )
  select id, p_order.id, p_order.user_id, payment_id, amount, state, reason, is_answer_due,
    evidence_due_at
  from jsonb_to_recordset(p_disputes) as fetched (
    id text, payment_id text, amount bigint, state text, reason text, is_answer_due boolean,
    evidence_due_at timestamptz)
  on conflict (dispute_id) do update
  set provider_payment_id = excluded.provider_payment_id,
    amount = excluded.amount,
    state = excluded.state,
    reason = excluded.reason,
    is_answer_due = excluded.is_answer_due,
    evidence_due_at = excluded.evidence_due_at,
    updated_at = app.now()
$$;
comment on function app.mirror_disputes is
$$Mirrors the provider's disputes of an order.$$;

create function app.record_fraud_warning(
  p_warning_id text, p_order_id uuid, p_payment_id text, p_fraud_type text,
  p_is_actionable boolean, p_created_at timestamptz
)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  insert into app.fraud_warnings (
    warning_id, order_id, user_id, provider_payment_id, fraud_type, is_actionable, created_at
  )
  select p_warning_id, id, user_id, p_payment_id, p_fraud_type, p_is_actionable, p_created_at
  from app.orders
  where id = p_order_id
  on conflict (warning_id) do update
  set is_actionable = excluded.is_actionable, updated_at = app.now()
$$;
comment on function app.record_fraud_warning is
$$Mirrors a bank's report of fraud about an order.$$;

create function app.acknowledge_dispute(p_dispute_id text, p_reason text)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform app.require_admin();
  update app.payment_disputes
  set acknowledged_at = coalesce(acknowledged_at, app.now())
  where dispute_id = p_dispute_id;
  if not found then
    raise exception 'no such dispute' using errcode = 'JS404', detail = '{"kind": "dispute"}';
  end if;
  perform app.write_audit(
    'dispute.acknowledge', p_dispute_id, jsonb_build_object('reason', p_reason));
end $$;
comment on function app.acknowledge_dispute is
$$An admin knows of a dispute, and has answered it at the provider or lets it be: it alarms no more.
Audited. Errors: JS403, JS404.$$;

create function app.acknowledge_fraud_warning(p_warning_id text, p_reason text)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform app.require_admin();
  update app.fraud_warnings
  set acknowledged_at = coalesce(acknowledged_at, app.now()), updated_at = app.now()
  where warning_id = p_warning_id;
  if not found then
    raise exception 'no such warning' using errcode = 'JS404', detail = '{"kind": "fraud_warning"}';
  end if;
  perform app.write_audit(
    'fraud_warning.acknowledge', p_warning_id, jsonb_build_object('reason', p_reason));
end $$;
comment on function app.acknowledge_fraud_warning is
$$An admin knows of a warning and lets the payment be: it alarms no more. Audited.
Errors: JS403, JS404.$$;

create function app.open_return(
  p_return_id uuid, p_order app.orders, p_payment_id text, p_amount bigint, p_origin text,
  p_reason text, p_key text
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into app.payment_returns (
    id, order_id, user_id, provider_payment_id, amount, currency, origin, reason, idempotency_key
  )
  values (p_return_id, p_order.id, p_order.user_id, p_payment_id, p_amount, p_order.currency,
    p_origin, p_reason, p_key);
  perform app.settle_order(p_order.id);
  perform app.add_task(
    'return.create', jsonb_build_object('return_id', p_return_id), p_return_id::text);
end $$;
comment on function app.open_return is
$$One return of an order's money: the row, its credits at once, and the task that makes it at the
provider.
Expects the locks of account and order.$$;

create function app.returnable_order(p_order_id uuid, p_user_id uuid)
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
comment on function app.returnable_order is
$$The order, locked, if money of it can go back. Expects the lock of the account.
Errors: JS404, JS409 {reason, state}.$$;

create function app.request_return(
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

create function app.returnable_payment(p_order app.orders, p_payment_id text)
  returns table (payment_id text, amount_left bigint)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select payments.provider_payment_id, payments.amount_total - coalesce((
      select sum(amount)
      from app.payment_returns
      where order_id = p_order.id
        and provider_payment_id = payments.provider_payment_id
        and state in ('requested', 'pending', 'requires_action', 'succeeded')), 0)
    - coalesce((
      select sum(amount)
      from app.payment_disputes
      where order_id = p_order.id
        and provider_payment_id = payments.provider_payment_id
        and state in ('open', 'lost')), 0) as amount_left
  from app.order_payments as payments
  where payments.order_id = p_order.id
    and payments.provider_payment_id is distinct from p_order.provider_payment_id
    and (payments.provider_payment_id = p_payment_id
      or (p_payment_id is null and p_order.review_reason = 'paid_twice'))
  order by amount_left desc, payments.created_at
  limit 1
$$;
comment on function app.returnable_payment is
$$A payment of the order that nothing was given for: the named one, or that of an order which was
paid twice; and what of it is still ours. No row: the payment that the order was granted for.$$;

create function app.admin_return(
  p_return_id uuid, p_order_id uuid, p_amount bigint, p_reason text, p_key text,
  p_payment_id text
)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid;
  v_order app.orders;
  v_known app.payment_returns;
  v_payment_id text;
  v_left bigint;
  v_amount bigint;
  v_terms jsonb := jsonb_strip_nulls(jsonb_build_object('payment', p_payment_id))
    || jsonb_build_object('amount', p_amount, 'reason', p_reason, 'key', p_key);
begin
  perform app.require_fresh_admin();
  select user_id into v_user_id from app.orders where id = p_order_id;
  if not found then
    raise exception 'no such order' using errcode = 'JS404', detail = '{"kind": "order"}';
  end if;
  perform app.lock_account(v_user_id);
  select *
  into v_known
  from app.payment_returns
  where order_id = p_order_id
    and idempotency_key = p_key;
  if found then
    if not exists (
      select
      from app.audit_log as line
      join app.audit_details as told on told.audit_id = line.id
      where line.action = 'payment.refund'
        and line.target = p_order_id::text
        and told.detail = v_terms
    ) then
      raise exception 'key of a return used with other terms' using errcode = 'JS432';
    end if;
    return v_known.id;
  end if;
  select * into v_order from app.orders where id = p_order_id for no key update;
  select payment_id, amount_left
  into v_payment_id, v_left
  from app.returnable_payment(v_order, p_payment_id);
  if v_payment_id is null then
    if p_payment_id <> v_order.provider_payment_id or
      (p_payment_id is not null and v_order.provider_payment_id is null)
    then
      raise exception 'no such payment' using errcode = 'JS404', detail = '{"kind": "payment"}';
    end if;
    v_order := app.returnable_order(p_order_id, v_user_id);
    v_payment_id := v_order.provider_payment_id;
    v_left := v_order.amount_total - v_order.amount_returned;
  elsif v_left <= 0 then
    raise exception 'not returnable' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', 'all_returned', 'state', v_order.state)::text;
  end if;
  v_amount := coalesce(p_amount, v_left);
  if v_amount not between 1 and v_left then
    raise exception 'more than left' using errcode = 'JS422', detail = jsonb_build_object(
      'field', 'amount', 'reason', 'more_than_left', 'left', v_left)::text;
  end if;
  perform app.open_return(
    p_return_id, v_order, v_payment_id, v_amount, 'admin', p_reason, p_key);
  perform app.write_audit('payment.refund', p_order_id::text, v_terms);
  return p_return_id;
end $$;
comment on function app.admin_return is
$$An admin gives back any amount of an order's payment, null for all that is left; audited. Of an order
that was paid twice it is the payment that nothing was given for, unless p_payment_id names another.
Locks: account, order, lots. Errors: JS403, JS404, JS409, JS422, JS432 (key with other terms).
Returns the return's id. Replay: the same key and terms find the same return.$$;

create function app.review_order(
  p_order_id uuid, p_decision text, p_reason text, p_return_id uuid, p_key text
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid;
  v_order app.orders;
  v_left bigint;
begin
  perform app.require_fresh_admin();
  select user_id into v_user_id from app.orders where id = p_order_id;
  if not found then
    raise exception 'no such order' using errcode = 'JS404', detail = '{"kind": "order"}';
  end if;
  perform app.lock_account(v_user_id);
  select * into v_order from app.orders where id = p_order_id for no key update;
  if v_order.state <> 'review' or v_order.session_id is null then
    raise exception 'not in review' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', 'not_in_review', 'state', v_order.state)::text;
  end if;
  if p_decision = 'accepted' and v_order.review_reason = 'other_payment' then
    -- Its money has bought another order's credits already.
    raise exception 'paid for another order' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', 'return_it_instead', 'state', v_order.state)::text;
  end if;
  update app.orders
  set review_decision = p_decision, review_session_id = session_id, version = version + 1
  where id = p_order_id
  returning * into v_order;
  perform app.write_audit('order.review', p_order_id::text, jsonb_build_object(
    'decision', p_decision, 'reason', p_reason, 'review_reason', v_order.review_reason,
    'session', v_order.session_id));
  v_left := v_order.amount_total - (
    select coalesce(sum(amount), 0)
    from app.payment_returns
    where order_id = p_order_id
      and state in ('requested', 'pending', 'requires_action', 'succeeded'));
  if p_decision = 'rejected' and v_order.provider_payment_id is not null and v_left > 0 then
    perform app.open_return(
      p_return_id, v_order, v_order.provider_payment_id, v_left, 'admin', p_reason, p_key);
  else
    perform app.add_task(
      'payment.sync', jsonb_build_object('order_id', p_order_id), p_order_id::text);
  end if;
end $$;
comment on function app.review_order is
$$An admin's decision about the session in review: accepted, its order is granted by the next sync if
the session is still paid; rejected, its money goes back, and where nothing was paid the order ends.
Audited. Locks: account, order. Errors: JS403, JS404, JS409 {reason, state}.$$;

create function app.refuse_return(p_return_id uuid, p_reason text)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_return app.payment_returns;
begin
  select * into v_return from app.payment_returns where id = p_return_id;
  if not found then
    raise exception 'no such return' using errcode = 'JS404', detail = '{"kind": "refund"}';
  end if;
  perform app.lock_account(v_return.user_id);
  perform from app.orders where id = v_return.order_id for no key update;
  update app.payment_returns
  set state = 'refused', failure_reason = p_reason, updated_at = app.now()
  where id = p_return_id
    and state = 'requested';
  if found then
    perform app.settle_order(v_return.order_id);
  end if;
end $$;
comment on function app.refuse_return is
$$The provider will not make this return: its credits come back. Locks: account, order, lots.
Errors: JS404. Replay: a return that has ended stays as it is.$$;

create function app.note_return(p_return_id uuid, p_credit_note_id text, p_refused text)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.payment_returns
  set credit_note_id = p_credit_note_id, credit_note_refused = p_refused
  where id = p_return_id
    and credit_note_id is null
$$;
comment on function app.note_return is
$$The credit note of a return, or why the provider writes none.$$;

create function app.next_return_attempt(p_return_id uuid, p_attempt integer)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.payment_returns
  set attempt = attempt + 1
  where id = p_return_id
    and attempt = p_attempt
    and state = 'requested'
$$;
comment on function app.next_return_attempt is
$$As next_attempt, for a return.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function app.request_return(uuid, uuid, bigint, text, boolean) to jewelshot_user;
grant execute on function
  app.refuse_return(uuid, text),
  app.note_return(uuid, text, text),
  app.next_return_attempt(uuid, integer)
  to jewelshot_worker;
grant execute on function
  app.record_fraud_warning(text, uuid, text, text, boolean, timestamptz)
  to jewelshot_worker;
grant execute on function
  app.admin_return(uuid, uuid, bigint, text, text, text),
  app.review_order(uuid, text, text, uuid, text),
  app.acknowledge_dispute(text, text),
  app.acknowledge_fraud_warning(text, text)
  to jewelshot_admin;
