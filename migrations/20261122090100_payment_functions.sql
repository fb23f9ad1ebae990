-- The functions that orders and their money move by. Lock order: account, order, task.

-- Opens an order for a pack, or returns the caller's open one: a double click buys once.
-- Returns {order_id, reused}. Locks: account. Errors: JS401, JS403 {reason: buying_stopped},
-- JS404 {kind: pack | credit_account}, JS429. Replay: the same id returns the same order.
create function app.start_order(p_order_id uuid, p_pack_slug text)
  returns jsonb
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_terms app.payment_terms;
  v_pack app.packs;
  v_order_id uuid;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  perform app.lock_account(v_user_id);
  select * into v_terms from app.payment_terms;
  select *
  into v_pack
  from app.packs
  where slug = p_pack_slug
    and is_active;
  if not found then
    raise exception 'no such pack' using errcode = 'JS404', detail = '{"kind": "pack"}';
  end if;
  if (
    select count(*) >= v_terms.lost_disputes_max
    from app.payment_disputes
    where user_id = v_user_id
      and status = 'lost'
  ) then
    raise exception 'two lost disputes'
      using errcode = 'JS403', detail = '{"reason": "buying_stopped"}';
  end if;
  select id
  into v_order_id
  from app.orders
  where user_id = v_user_id
    and (
      id = p_order_id
      or (pack_slug = v_pack.slug
        and pack_version = v_pack.version
        and state in ('created', 'open')
        and attempted_at > now() - interval '25 minutes'))
  order by (id = p_order_id) desc, attempted_at desc
  limit 1;
  if found then
    return jsonb_build_object('order_id', v_order_id, 'reused', true);
  end if;
  if (
    select count(*) >= v_terms.unpaid_orders_per_hour
    from app.orders
    where user_id = v_user_id
      and paid_at is null
      and created_at > now() - interval '1 hour'
  ) then
    raise exception 'too many unpaid orders'
      using errcode = 'JS429', detail = jsonb_build_object(
        'reason', 'unpaid_orders', 'limit', v_terms.unpaid_orders_per_hour)::text;
  end if;
  insert into app.orders (
    id, user_id, pack_slug, pack_version, credits, unit_amount, currency, expires_at
  )
  values (p_order_id, v_user_id, v_pack.slug, v_pack.version, v_pack.credits, v_pack.unit_amount,
    v_pack.currency, date_trunc('second', now()) + interval '1 hour');
  return jsonb_build_object('order_id', p_order_id, 'reused', false);
end $$;

-- A new attempt at a failed or expired order: a new session for the same order. The caller has
-- made sure that the session before can no longer be paid. Returns the attempt.
-- Locks: account, order. Errors: JS401, JS404, JS409 {reason, state}.
create function app.retry_order(p_order_id uuid, p_attempt integer)
  returns integer
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_order app.orders;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  perform app.lock_account(v_user_id);
  select *
  into v_order
  from app.orders
  where id = p_order_id
    and user_id = v_user_id
  for no key update;
  if not found then
    raise exception 'no such order' using errcode = 'JS404', detail = '{"kind": "order"}';
  end if;
  if v_order.attempt > p_attempt then
    return v_order.attempt;
  end if;
  if v_order.state not in ('failed', 'expired') then
    raise exception 'not to be retried' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', 'only a failed or expired payment can be tried again', 'state', v_order.state)::text;
  end if;
  update app.orders
  set attempt = attempt + 1,
    attempted_at = now(),
    version = version + 1,
    state = 'created',
    expires_at = date_trunc('second', now()) + interval '1 hour',
    failure_reason = null,
    session_id = null,
    session_url = null
  where id = p_order_id;
  return v_order.attempt + 1;
end $$;

-- After an answer that Stripe stores with its key for good (a 500): the next call takes a new key.
-- Replay: only the attempt that was seen is left behind.
create function app.next_attempt(p_order_id uuid, p_attempt integer)
  returns void
  language sql
  security definer
  set search_path = ''
as $$
  update app.orders
  set attempt = attempt + 1
  where id = p_order_id
    and attempt = p_attempt
    and state = 'created'
$$;

-- Stripe's session of an attempt. Replay: the same session changes nothing.
create function app.record_session(
  p_order_id uuid, p_attempt integer, p_session_id text, p_session_url text, p_price_id text,
  p_customer_id text
)
  returns void
  language plpgsql
  security definer
  set search_path = ''
as $$
begin
  insert into app.order_sessions (session_id, order_id, attempt)
  values (p_session_id, p_order_id, p_attempt)
  on conflict do nothing;
  update app.orders
  set session_id = p_session_id,
    session_url = p_session_url,
    price_id = p_price_id,
    customer_id = p_customer_id,
    state = case when state = 'created' then 'open' else state end
  where id = p_order_id
    and attempt = p_attempt
    and (session_id is null or session_id = p_session_id);
end $$;

-- The customer of a user; p_replaces is one that Stripe no longer knows.
-- Returns the customer that counts: of two that were made at once the first.
create function app.record_customer(p_user_id uuid, p_customer_id text, p_replaces text)
  returns text
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_customer_id text;
begin
  insert into app.stripe_customers (user_id, customer_id)
  values (p_user_id, p_customer_id)
  on conflict do nothing;  -- on either key: two that create at once get one customer of Stripe
  update app.stripe_customers
  set customer_id = p_customer_id, created_at = now()
  where user_id = p_user_id
    and customer_id = p_replaces;
  select customer_id
  into v_customer_id
  from app.stripe_customers
  where user_id = p_user_id;
  return v_customer_id;
end $$;

-- Wants a look at Stripe for an order that has not ended; a moment after the last one at the
-- earliest. Returns the task or null. Errors: JS401, JS404.
create function app.request_order_sync(p_order_id uuid)
  returns uuid
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_order app.orders;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  select *
  into v_order
  from app.orders
  where id = p_order_id
    and user_id = v_user_id;
  if not found then
    raise exception 'no such order' using errcode = 'JS404', detail = '{"kind": "order"}';
  end if;
  if v_order.state not in ('created', 'open', 'processing', 'expired')
    or v_order.asked_at > clock_timestamp() - interval '1 second'
  then
    return null;
  end if;
  return app.add_task(
    'payment.sync', jsonb_build_object('order_id', p_order_id), 'interactive', p_order_id::text);
end $$;

-- Keeps a signed event and wants it handled, once. Returns the task, or null for one we have.
create function app.receive_stripe_event(
  p_id text, p_type text, p_object_id text, p_created double precision, p_payload jsonb,
  p_source text
)
  returns uuid
  language plpgsql
  security definer
  set search_path = ''
as $$
begin
  insert into app.stripe_events (id, type, object_id, created, payload, source)
  values (p_id, p_type, p_object_id, to_timestamp(p_created), p_payload, p_source)
  on conflict do nothing;
  if not found then
    return null;
  end if;
  return app.add_task('stripe_event.handle', jsonb_build_object('event_id', p_id), 'interactive',
    p_id);
end $$;

-- What was done about an event, in the transaction of its effect; completes its task.
create function app.finish_stripe_event(
  p_event_id text, p_outcome text, p_order_id uuid, p_lease_token uuid
)
  returns void
  language plpgsql
  security definer
  set search_path = ''
as $$
begin
  update app.stripe_events
  set handled_at = now(), outcome = p_outcome, order_id = coalesce(p_order_id, order_id)
  where id = p_event_id;
  perform app.complete_task(p_lease_token);
end $$;

-- Recomputes what of a paid order is gone and posts the difference, never the sum of events.
-- Expects the locks of account and order. Posts under the order's version, which rises each time.
create function app.settle_order(p_order_id uuid)
  returns app.orders
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_order app.orders;
  v_key text;
  v_gone bigint;
  v_target bigint := 0;
  v_is_disputed boolean;
  v_is_lost boolean;
begin
  update app.orders
  set version = version + 1
  where id = p_order_id
  returning * into v_order;
  if v_order.paid_at is null then
    return v_order;
  end if;
  select coalesce(sum(amount), 0), coalesce(bool_or(status <> 'lost'), false),
    coalesce(bool_or(status = 'lost'), false)
  into v_gone, v_is_disputed, v_is_lost
  from app.payment_disputes
  where order_id = p_order_id
    and status not in ('won', 'prevented')
    and status not like 'warning\_%';
  v_gone := least(v_order.amount_total, v_gone + (
    select coalesce(sum(amount), 0)
    from app.payment_refunds
    where order_id = p_order_id
      and state in ('requested', 'pending', 'requires_action', 'succeeded')));
  if v_gone > 0 then
    v_target := case when v_gone >= v_order.amount_total then v_order.credits
      else v_order.credits * v_gone / v_order.amount_total end;
  end if;
  v_key := 'order:' || p_order_id || ':' || v_order.version;
  if v_target > v_order.credits_reversed then
    perform app.take_back(
      v_order.user_id, v_target - v_order.credits_reversed, 'reverse', 'sales', v_key,
      'order:' || p_order_id, 'system', null);
  elsif v_target < v_order.credits_reversed then
    perform app.grant_credits(
      v_order.user_id, v_order.credits_reversed - v_target, 'purchase', 'restore:' || v_key,
      null, 'order:' || p_order_id);
  end if;
  update app.orders
  set amount_gone = v_gone,
    credits_reversed = v_target,
    state = case
      when v_is_disputed then 'disputed'
      when v_is_lost then 'charged_back'
      when v_gone > 0 and v_target = credits then 'refunded'
      when v_gone > 0 then 'partially_refunded'
      else 'paid' end
  where id = p_order_id
  returning * into v_order;
  return v_order;
end $$;

-- Mirrors Stripe's refunds of an order; one of ours is known by its id in the metadata.
create function app.mirror_refunds(p_order app.orders, p_refunds jsonb)
  returns void
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_refund record;
begin
  for v_refund in
    select *
    from jsonb_to_recordset(p_refunds) as refund (
      id text, amount bigint, status text, reason text, failure_reason text, request_id uuid)
  loop
    update app.payment_refunds
    set stripe_refund_id = v_refund.id,
      amount = v_refund.amount,
      state = v_refund.status,
      failure_reason = v_refund.failure_reason,
      updated_at = now()
    where order_id = p_order.id
      and (stripe_refund_id = v_refund.id
        or (stripe_refund_id is null and id = v_refund.request_id));
    if not found then
      insert into app.payment_refunds (
        order_id, user_id, amount, currency, origin, reason, state, stripe_refund_id,
        failure_reason
      )
      values (p_order.id, p_order.user_id, v_refund.amount, p_order.currency, 'stripe',
        v_refund.reason, v_refund.status, v_refund.id, v_refund.failure_reason);
    end if;
  end loop;
end $$;

-- Writes down one look at Stripe: the state, the grant once, and what was taken back since.
-- The look began at p_asked_at and belongs to p_version; if the row has moved on, the answer is
-- {stale: true} and the caller looks again, unless a younger look was written: then that counts.
-- p_facts: {outcome, review_reason, failure_reason, session_id, payment_intent, amount_total, …,
-- refunds: [{id, amount, status, …}], disputes: [{id, amount, status, reason}]}.
-- Locks: account, order, lots, task. Errors: JS404, JS430. Replay: the same facts post nothing.
create function app.sync_order(
  p_order_id uuid, p_version integer, p_asked_at timestamptz, p_facts jsonb, p_event_id text,
  p_lease_token uuid
)
  returns jsonb
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_user_id uuid;
  v_before app.orders;
  v_order app.orders;
  v_outcome text := p_facts ->> 'outcome';
begin
  select user_id into v_user_id from app.orders where id = p_order_id;
  if not found then
    raise exception 'no such order' using errcode = 'JS404', detail = '{"kind": "order"}';
  end if;
  perform app.lock_account(v_user_id);
  select * into v_before from app.orders where id = p_order_id for no key update;
  if v_before.version <> p_version then
    if v_before.asked_at is null or v_before.asked_at < p_asked_at then
      return '{"stale": true}';
    end if;
    v_order := v_before;
  else
    if v_outcome = 'paid' and v_before.paid_at is null then
      perform app.grant_credits(
        v_user_id, v_before.credits, 'purchase', 'order:' || p_order_id, null,
        'order:' || p_order_id);
    end if;
    if p_facts ->> 'session_id' is not null then
      insert into app.order_sessions (session_id, order_id, attempt)
      values (p_facts ->> 'session_id', p_order_id, v_before.attempt)
      on conflict do nothing;
    end if;
    update app.orders
    set asked_at = p_asked_at,
      state = case when paid_at is not null then state else v_outcome end,
      paid_at = case when v_outcome = 'paid' then coalesce(paid_at, now()) else paid_at end,
      session_id = coalesce(p_facts ->> 'session_id', session_id),
      session_url = case
        when v_outcome = 'open' then coalesce(p_facts ->> 'session_url', session_url) end,
      price_id = coalesce(price_id, p_facts ->> 'price_id'),
      customer_id = coalesce(p_facts ->> 'customer_id', customer_id),
      payment_intent = case when paid_at is null
        then coalesce(p_facts ->> 'payment_intent', payment_intent) else payment_intent end,
      amount_total = case when paid_at is null
        then (p_facts ->> 'amount_total')::bigint else amount_total end,
      failure_reason = case when paid_at is null then p_facts ->> 'failure_reason' end,
      review_reason = p_facts ->> 'review_reason',
      invoice_id = coalesce(p_facts ->> 'invoice_id', invoice_id),
      invoice_url = coalesce(p_facts ->> 'invoice_url', invoice_url),
      invoice_pdf_url = coalesce(p_facts ->> 'invoice_pdf_url', invoice_pdf_url),
      receipt_url = coalesce(p_facts ->> 'receipt_url', receipt_url)
    where id = p_order_id
    returning * into v_order;
    perform app.mirror_refunds(v_order, coalesce(p_facts -> 'refunds', '[]'));
    insert into app.payment_disputes (dispute_id, order_id, user_id, amount, status, reason)
    select dispute.id, p_order_id, v_user_id, dispute.amount, dispute.status, dispute.reason
    from jsonb_to_recordset(coalesce(p_facts -> 'disputes', '[]'))
      as dispute (id text, amount bigint, status text, reason text)
    on conflict (dispute_id) do update
    set amount = excluded.amount, status = excluded.status, updated_at = now();
    v_order := app.settle_order(p_order_id);
  end if;
  if p_event_id is not null then
    perform app.finish_stripe_event(p_event_id, v_order.state, p_order_id, null);
  end if;
  perform app.complete_task(p_lease_token);
  return jsonb_build_object('stale', false, 'state', v_order.state,
    'was', v_before.state, 'granted', v_before.paid_at is null and v_order.paid_at is not null,
    'credits_reversed', v_order.credits_reversed - v_before.credits_reversed);
end $$;

-- One refund of an order: the row, its credits at once, and the task (of the same id) that asks
-- Stripe for it.
-- Expects the locks of account and order.
create function app.open_refund(
  p_refund_id uuid, p_order app.orders, p_amount bigint, p_origin text, p_reason text, p_key text
)
  returns void
  language plpgsql
  security definer
  set search_path = ''
as $$
begin
  insert into app.payment_refunds (
    id, order_id, user_id, amount, currency, origin, reason, idempotency_key
  )
  values (p_refund_id, p_order.id, p_order.user_id, p_amount, p_order.currency, p_origin,
    p_reason, p_key);
  perform app.settle_order(p_order.id);
  perform app.add_task('refund.create', jsonb_build_object('refund_id', p_refund_id),
    'interactive', p_refund_id::text, p_id => p_refund_id);
end $$;

-- The order, locked, if money of it can go back. Expects the lock of the account.
-- Errors: JS404, JS409 {reason, state}.
create function app.refundable_order(p_order_id uuid, p_user_id uuid)
  returns app.orders
  language plpgsql
  security definer
  set search_path = ''
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
    when v_order.paid_at is null and v_order.state <> 'review' then 'the order is not paid'
    when v_order.state in ('disputed', 'charged_back') then 'the payment is disputed'
    when v_order.amount_total = 0 then 'nothing was paid for this order'
    when v_order.amount_gone >= v_order.amount_total then 'all of it is refunded already' end;
  if v_reason is not null then
    raise exception 'not refundable' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', v_reason, 'state', v_order.state)::text;
  end if;
  return v_order;
end $$;

-- The buyer gives unused credits of an order back; p_credits null is all of them. They leave the
-- balance now, so that they cannot be spent while Stripe works; a refused refund restores them.
-- Locks: account, order, lots. Errors: JS401, JS404, JS409 {reason}, JS422 {field, reason}.
-- Replay: the same refund id does nothing more.
create function app.request_refund(
  p_refund_id uuid, p_order_id uuid, p_credits bigint, p_reason text
)
  returns void
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_days integer;
  v_order app.orders;
  v_unused bigint;
  v_target numeric;
  v_gone bigint;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  perform app.lock_account(v_user_id);
  if exists (select from app.payment_refunds where id = p_refund_id and user_id = v_user_id) then
    return;
  end if;
  v_order := app.refundable_order(p_order_id, v_user_id);
  select refund_days into v_days from app.payment_terms;
  if v_order.paid_at is null then
    raise exception 'in review' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', 'the payment is being looked at', 'state', v_order.state)::text;
  end if;
  if v_order.paid_at < now() - make_interval(days => v_days) then
    raise exception 'too late' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', 'the time for a refund is over', 'refund_days', v_days)::text;
  end if;
  select coalesce(sum(remaining), 0)
  into v_unused
  from app.credit_lots
  where user_id = v_user_id
    and source = 'purchase'
    and reference = 'order:' || p_order_id;
  if v_unused = 0 then
    raise exception 'nothing unused' using errcode = 'JS409',
      detail = '{"reason": "all credits of this order are spent"}';
  end if;
  if p_credits not between 1 and v_unused then
    raise exception 'more than unused' using errcode = 'JS422', detail = jsonb_build_object(
      'field', 'credits', 'reason', format('of this order %s are unused', v_unused))::text;
  end if;
  -- The smallest amount of money that is worth so many credits, and never more than they are.
  v_target := v_order.credits_reversed + coalesce(p_credits, v_unused);
  v_gone := ceil(v_order.amount_total * v_target / v_order.credits);
  if v_order.credits * v_gone / v_order.amount_total > v_target then
    v_gone := floor(v_order.amount_total * v_target / v_order.credits);
  end if;
  if v_gone <= v_order.amount_gone then
    raise exception 'worth nothing' using errcode = 'JS422', detail =
      '{"field": "credits", "reason": "worth less than the smallest coin"}';
  end if;
  perform app.open_refund(
    p_refund_id, v_order, v_gone - v_order.amount_gone, 'buyer', p_reason, null);
end $$;

-- An admin gives back any amount of an order, null for all that is left; audited.
-- Locks: account, order, lots. Errors: JS403, JS404, JS409, JS422, JS432 (key with other terms).
-- Returns the refund's id. Replay: the same key and terms return the same refund.
create function app.admin_refund(
  p_refund_id uuid, p_order_id uuid, p_amount bigint, p_reason text, p_key text
)
  returns uuid
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_user_id uuid;
  v_order app.orders;
  v_known app.payment_refunds;
  v_amount bigint;
  v_terms jsonb := jsonb_build_object('amount', p_amount, 'reason', p_reason, 'key', p_key);
begin
  if not app.is_admin() then
    raise exception 'admins only' using errcode = 'JS403', detail = '{"reason": "admin_required"}';
  end if;
  select user_id into v_user_id from app.orders where id = p_order_id;
  if not found then
    raise exception 'no such order' using errcode = 'JS404', detail = '{"kind": "order"}';
  end if;
  perform app.lock_account(v_user_id);
  select *
  into v_known
  from app.payment_refunds
  where order_id = p_order_id
    and idempotency_key = p_key;
  if found then
    if not exists (
      select
      from app.audit_log
      where action = 'payment.refund'
        and target = p_order_id::text
        and detail = v_terms
    ) then
      raise exception 'refund key used with other terms' using errcode = 'JS432';
    end if;
    return v_known.id;
  end if;
  v_order := app.refundable_order(p_order_id, v_user_id);
  v_amount := coalesce(p_amount, v_order.amount_total - v_order.amount_gone);
  if v_amount not between 1 and v_order.amount_total - v_order.amount_gone then
    raise exception 'more than left' using errcode = 'JS422', detail = jsonb_build_object(
      'field', 'amount', 'reason', format('between 1 and %s are left to refund',
        v_order.amount_total - v_order.amount_gone))::text;
  end if;
  perform app.open_refund(p_refund_id, v_order, v_amount, 'admin', p_reason, p_key);
  perform app.write_audit('payment.refund', p_order_id::text, v_terms);
  return p_refund_id;
end $$;

-- Stripe will not make this refund: its credits come back. Locks: account, order, lots, task.
-- Errors: JS404, JS430. Replay: a refund that has ended stays as it is.
create function app.refuse_refund(p_refund_id uuid, p_reason text, p_lease_token uuid)
  returns void
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_refund app.payment_refunds;
begin
  select * into v_refund from app.payment_refunds where id = p_refund_id;
  if not found then
    raise exception 'no such refund' using errcode = 'JS404', detail = '{"kind": "refund"}';
  end if;
  perform app.lock_account(v_refund.user_id);
  perform from app.orders where id = v_refund.order_id for no key update;
  update app.payment_refunds
  set state = 'refused', failure_reason = p_reason, updated_at = now()
  where id = p_refund_id
    and state = 'requested';
  if found then
    perform app.settle_order(v_refund.order_id);
  end if;
  perform app.complete_task(p_lease_token);
end $$;

-- As next_attempt, for a refund.
create function app.next_refund_attempt(p_refund_id uuid, p_attempt integer)
  returns void
  language sql
  security definer
  set search_path = ''
as $$
  update app.payment_refunds
  set attempt = attempt + 1
  where id = p_refund_id
    and attempt = p_attempt
    and state = 'requested'
$$;

-- Puts events back to work: the named ones, or those that were received in a range. Audited.
-- Returns their ids. Errors: JS403. Replay: handling an event again posts nothing new.
create function app.replay_stripe_events(
  p_ids text[], p_from timestamptz, p_to timestamptz, p_types text[], p_limit integer
)
  returns setof text
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_ids text[];
  v_id text;
begin
  if not app.is_admin() then
    raise exception 'admins only' using errcode = 'JS403', detail = '{"reason": "admin_required"}';
  end if;
  with chosen as (
    select id
    from app.stripe_events
    where (p_ids is null or id = any (p_ids))
      and (p_from is null or received_at >= p_from)
      and (p_to is null or received_at < p_to)
      and (p_types is null or type = any (p_types))
    order by received_at, id
    limit p_limit
    for update
  ), reset as (
    update app.stripe_events as event
    set handled_at = null, outcome = null, replays = replays + 1
    from chosen
    where event.id = chosen.id
    returning event.id
  )
  select array_agg(id) into v_ids from reset;
  foreach v_id in array coalesce(v_ids, '{}') loop
    perform app.add_task(
      'stripe_event.handle', jsonb_build_object('event_id', v_id), 'default', v_id);
    return next v_id;
  end loop;
  perform app.write_audit('stripe_events.replay', null, jsonb_build_object(
    'ids', p_ids, 'from', p_from, 'to', p_to, 'types', p_types,
    'count', coalesce(cardinality(v_ids), 0)));
end $$;

-- Handled events older than p_days are deleted: they hold names and addresses. Returns the count.
create function app.prune_stripe_events(p_days integer, p_lease_token uuid)
  returns bigint
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_count bigint;
begin
  delete from app.stripe_events
  where handled_at < now() - make_interval(days => p_days);
  get diagnostics v_count = row_count;
  perform app.complete_task(p_lease_token);
  return v_count;
end $$;

-- What a day's books say, Stripe's against ours.
create function app.record_payment_day(
  p_day date, p_stripe_count bigint, p_stripe_amount bigint, p_our_count bigint,
  p_our_amount bigint, p_differing jsonb
)
  returns void
  language sql
  security definer
  set search_path = ''
as $$
  insert into app.payment_days (
    day, stripe_count, stripe_amount, our_count, our_amount, differing
  )
  values (p_day, p_stripe_count, p_stripe_amount, p_our_count, p_our_amount, p_differing)
  on conflict (day) do update
  set stripe_count = excluded.stripe_count,
    stripe_amount = excluded.stripe_amount,
    our_count = excluded.our_count,
    our_amount = excluded.our_amount,
    differing = excluded.differing,
    compared_at = now()
$$;

-- What lags or differs in payments, for /readyz: all zeros and false is well.
create function app.payments_health()
  returns jsonb
  language sql
  stable
  security definer
  set search_path = ''
as $$
  select jsonb_build_object(
    'events_waiting', (
      select count(*)
      from app.stripe_events
      where handled_at is null
        and received_at < now() - interval '5 minutes'),
    'orders_in_review', (select count(*) from app.orders where review_reason is not null),
    'refunds_waiting', (
      select count(*)
      from app.payment_refunds
      where state = 'requested'
        and created_at < now() - interval '15 minutes'),
    'days_differing', (
      select count(*)
      from app.payment_days
      where differing <> '[]'
        and day > current_date - 7),
    'webhooks_silent', exists (
      select
      from app.orders
      where paid_at between now() - interval '1 day' and now() - interval '5 minutes'
    ) and not exists (
      select
      from app.stripe_events
      where source = 'webhook'
        and received_at > now() - interval '1 day'
    ))
$$;

-- The same and the sales as figures for /metrics.
create function app.payments_metrics()
  returns table (name text, labels jsonb, value double precision)
  language sql
  stable
  security definer
  set search_path = ''
as $$
  select 'jewelshot_payments_' || fact.key, '{}'::jsonb,
    case jsonb_typeof(fact.value)
      when 'boolean' then (fact.value::boolean)::integer::double precision
      else fact.value::text::double precision end
  from jsonb_each(app.payments_health()) as fact
  union all
  select 'jewelshot_orders_open', jsonb_build_object('state', known.state), count(orders.id)
  from unnest(array['created', 'open', 'processing']) as known (state)
  left join app.orders as orders
    on orders.state = known.state
    and orders.state in ('created', 'open', 'processing')
  group by known.state
  union all
  select 'jewelshot_orders_paid_last_day', '{}', count(*)
  from app.orders
  where paid_at > now() - interval '1 day'
  union all
  select 'jewelshot_credits_sold_last_day', '{}', coalesce(sum(credits - credits_reversed), 0)
  from app.orders
  where paid_at > now() - interval '1 day'
$$;

-- Orders and the ledger say the same: granted once, taken back as much as refunds and disputes
-- want, at the pack's price.
create function app.reconcile_payments()
  returns table (check_name text, table_name text, row_id text, detail jsonb)
  language sql
  stable
  security definer
  set search_path = ''
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
  ), gone as (
    select orders.id,
      coalesce((
        select sum(amount)
        from app.payment_refunds
        where order_id = orders.id
          and state in ('requested', 'pending', 'requires_action', 'succeeded')), 0)
      + coalesce((
        select sum(amount)
        from app.payment_disputes
        where order_id = orders.id
          and status not in ('won', 'prevented')
          and status not like 'warning\_%'), 0) as amount
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
  select 'order_gone', 'orders', orders.id::text, jsonb_build_object(
    'amount_gone', orders.amount_gone, 'refunds_and_disputes', gone.amount,
    'amount_total', orders.amount_total, 'credits_reversed', orders.credits_reversed)
  from app.orders
  join gone on gone.id = orders.id
  where orders.amount_gone <> least(orders.amount_total, gone.amount)
    or orders.credits_reversed <> case
      when orders.amount_gone = 0 then 0
      when orders.amount_gone >= orders.amount_total then orders.credits
      else orders.credits * orders.amount_gone / orders.amount_total end
  union all
  select 'order_terms', 'orders', orders.id::text, jsonb_build_object(
    'credits', orders.credits, 'unit_amount', orders.unit_amount, 'currency', orders.currency)
  from app.orders
  join app.packs on packs.slug = orders.pack_slug and packs.version = orders.pack_version
  where (orders.credits, orders.unit_amount, orders.currency)
    is distinct from (packs.credits, packs.unit_amount, packs.currency)
$$;

alter function app.reconcile() rename to reconcile_ledger;
create function app.reconcile()
  returns table (check_name text, table_name text, row_id text, detail jsonb)
  language sql
  stable
  security definer
  set search_path = ''
  set row_security = off
as $$
  select * from app.reconcile_ledger()
  union all
  select * from app.reconcile_payments()
$$;
revoke execute on function app.reconcile_ledger() from jewelshot_worker;

insert into app.schedules (name, job, every_seconds)
values
  ('payments.sync_unsettled', 'payments.sync_unsettled', 600),
  ('payments.sync_completed', 'payments.sync_completed', 3600),
  ('payments.fetch_events', 'payments.fetch_events', 86400),
  ('payments.compare_day', 'payments.compare_day', 86400),
  ('payments.prune_events', 'payments.prune_events', 86400);

grant create on schema app to jewelshot_ledger;
alter function app.start_order(uuid, text) owner to jewelshot_ledger;
alter function app.retry_order(uuid, integer) owner to jewelshot_ledger;
alter function app.next_attempt(uuid, integer) owner to jewelshot_ledger;
alter function app.record_session(uuid, integer, text, text, text, text) owner to jewelshot_ledger;
alter function app.record_customer(uuid, text, text) owner to jewelshot_ledger;
alter function app.request_order_sync(uuid) owner to jewelshot_ledger;
alter function app.receive_stripe_event(text, text, text, double precision, jsonb, text)
  owner to jewelshot_ledger;
alter function app.finish_stripe_event(text, text, uuid, uuid) owner to jewelshot_ledger;
alter function app.settle_order(uuid) owner to jewelshot_ledger;
alter function app.mirror_refunds(app.orders, jsonb) owner to jewelshot_ledger;
alter function app.sync_order(uuid, integer, timestamptz, jsonb, text, uuid)
  owner to jewelshot_ledger;
alter function app.open_refund(uuid, app.orders, bigint, text, text, text)
  owner to jewelshot_ledger;
alter function app.refundable_order(uuid, uuid) owner to jewelshot_ledger;
alter function app.request_refund(uuid, uuid, bigint, text) owner to jewelshot_ledger;
alter function app.admin_refund(uuid, uuid, bigint, text, text) owner to jewelshot_ledger;
alter function app.refuse_refund(uuid, text, uuid) owner to jewelshot_ledger;
alter function app.next_refund_attempt(uuid, integer) owner to jewelshot_ledger;
alter function app.replay_stripe_events(text[], timestamptz, timestamptz, text[], integer)
  owner to jewelshot_ledger;
alter function app.prune_stripe_events(integer, uuid) owner to jewelshot_ledger;
alter function app.record_payment_day(date, bigint, bigint, bigint, bigint, jsonb)
  owner to jewelshot_ledger;
alter function app.payments_health() owner to jewelshot_ledger;
alter function app.payments_metrics() owner to jewelshot_ledger;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.start_order(uuid, text),
  app.retry_order(uuid, integer),
  app.request_order_sync(uuid),
  app.request_refund(uuid, uuid, bigint, text)
  to authenticated;
grant execute on function
  app.next_attempt(uuid, integer),
  app.record_session(uuid, integer, text, text, text, text),
  app.record_customer(uuid, text, text),
  app.receive_stripe_event(text, text, text, double precision, jsonb, text),
  app.payments_health(),
  app.payments_metrics()
  to jewelshot_api;
grant execute on function
  app.receive_stripe_event(text, text, text, double precision, jsonb, text),
  app.finish_stripe_event(text, text, uuid, uuid),
  app.sync_order(uuid, integer, timestamptz, jsonb, text, uuid),
  app.refuse_refund(uuid, text, uuid),
  app.next_refund_attempt(uuid, integer),
  app.prune_stripe_events(integer, uuid),
  app.record_payment_day(date, bigint, bigint, bigint, bigint, jsonb),
  app.reconcile()
  to jewelshot_worker;
grant execute on function
  app.admin_refund(uuid, uuid, bigint, text, text),
  app.replay_stripe_events(text[], timestamptz, timestamptz, text[], integer)
  to jewelshot_admin;
