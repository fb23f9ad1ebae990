-- What goes back is counted by payment; one gate leads to every payment page; reviews, disputes and
-- banks' warnings of fraud have their functions.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

drop function app.admin_return(uuid,uuid,bigint,text,text);

drop function app.open_return(uuid,app.orders,bigint,text,text,text);

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.acknowledge_dispute(p_dispute_id text, p_reason text)
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

create or replace function app.acknowledge_fraud_warning(p_warning_id text, p_reason text)
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

create or replace function app.admin_return(
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
  perform app.require_admin();
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

create or replace function app.close_pages_if_stopped(p_user_id uuid)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from app.orders where user_id = p_user_id and state = 'open')
    and app.is_buying_stopped(p_user_id, null, null)
  then
    perform app.add_task(
      'payment.close_pages', jsonb_build_object('user_id', p_user_id), p_user_id::text);
  end if;
end $$;

create or replace function app.continue_order(p_order_id uuid)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_order app.orders;
begin
  select *
  into v_order
  from app.orders
  where id = p_order_id
    and user_id = v_user_id;
  if not found then
    raise exception 'no such order' using errcode = 'JS404', detail = '{"kind": "order"}';
  end if;
  if v_order.state not in ('created', 'open', 'failed', 'expired') then
    return;
  end if;
  perform app.require_may_buy(v_user_id);
  if v_order.state = 'created' and v_order.expires_at <= app.now() then
    perform app.renew_attempt(p_order_id, v_order.attempt);
  end if;
end $$;

create or replace function app.end_attempt(p_order_id uuid, p_attempt integer, p_reason text)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.orders
  set state = 'expired', failure_reason = p_reason, version = version + 1
  where id = p_order_id
    and attempt = p_attempt
    and state = 'created'
$$;

create or replace function app.is_buying_stopped(p_user_id uuid, p_card_fingerprint text, p_order_id uuid)
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

create or replace function app.is_payment_of_another(p_order_id uuid, p_payment_id text)
  returns boolean
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from app.orders
    where provider_payment_id = p_payment_id
      and id <> p_order_id
    union all
    select
    from app.order_payments
    where provider_payment_id = p_payment_id
      and order_id <> p_order_id)
$$;

create or replace function app.mirror_disputes(p_order app.orders, p_disputes jsonb)
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

create or replace function app.mirror_returns(p_order app.orders, p_returns jsonb)
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
end $$;

create or replace function app.note_provider_key(p_is_refused boolean)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.payment_provider
  set key_refused_at = case when p_is_refused then app.now() end
  where (key_refused_at is not null) <> p_is_refused
$$;

create or replace function app.open_return(
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

create or replace function app.payments_figures()
  returns table (name text, labels jsonb, value double precision)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select 'jewelshot_payments_' || fact.key, '{}'::jsonb,
    case jsonb_typeof(fact.value)
      when 'boolean' then (fact.value::boolean)::integer::double precision
      else fact.value::text::double precision end
  from jsonb_each(app.payments_health()) as fact
  union all
  select 'jewelshot_payments_dispute_due_seconds', '{}',
    coalesce(extract(epoch from min(evidence_due_at) - app.now()), -1)::double precision
  from app.payment_disputes
  where state in ('inquiry', 'open')
    and is_answer_due
    and evidence_due_at > app.now()
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
  where paid_at > app.now() - interval '1 day'
  union all
  select 'jewelshot_credits_sold_last_day', '{}', coalesce(sum(credits - credits_reversed), 0)
  from app.orders
  where paid_at > app.now() - interval '1 day'
$$;

create or replace function app.payments_health()
  returns jsonb
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'events_waiting', (
      select count(*)
      from app.stripe_events
      where handled_at is null
        and received_at < app.now() - interval '5 minutes'),
    'disputes_unanswered', (
      select count(*)
      from app.payment_disputes
      where state in ('inquiry', 'open')
        and is_answer_due
        and acknowledged_at is null
        and coalesce(evidence_due_at > app.now(), true)),
    'fraud_warnings_open', (
      select count(*)
      from app.fraud_warnings
      join app.orders on orders.id = fraud_warnings.order_id
      where is_actionable
        and acknowledged_at is null
        and orders.state in ('paid', 'partially_refunded', 'review')),
    'key_refused', exists (select from app.payment_provider where key_refused_at is not null),
    'orders_in_review', (select count(*) from app.orders where review_reason is not null),
    'returns_waiting', (
      select count(*)
      from app.payment_returns
      where state = 'requested'
        and created_at < app.now() - interval '15 minutes'),
    'days_differing', (
      select count(*)
      from app.payment_days
      where differing <> '[]'
        and day > (app.now() at time zone 'utc')::date - 7),
    'webhooks_silent', exists (
      select
      from app.orders
      where paid_at between app.now() - interval '1 day' and app.now() - interval '5 minutes'
    ) and not exists (
      select
      from app.stripe_events
      where source = 'webhook'
        and received_at > app.now() - interval '1 day'
    ))
$$;

create or replace function app.record_fraud_warning(
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

create or replace function app.record_session(
  p_order_id uuid, p_attempt integer, p_session_id text, p_session_url text, p_price_id text,
  p_customer_id text
)
  returns app.orders
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_order app.orders;
begin
  insert into app.order_sessions (session_id, order_id, attempt, price_id)
  values (p_session_id, p_order_id, p_attempt, p_price_id)
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
  select * into v_order from app.orders where id = p_order_id;
  return v_order;
end $$;

create or replace function app.renew_attempt(p_order_id uuid, p_attempt integer)
  returns app.orders
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_order app.orders;
begin
  update app.orders
  set attempt = attempt + 1,
    attempted_at = app.now(),
    expires_at = date_trunc('second', app.now()) + interval '2 hours'
  where id = p_order_id
    and attempt = p_attempt
    and state = 'created';
  select * into v_order from app.orders where id = p_order_id;
  return v_order;
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
  perform app.add_task(
    'payment.sync', jsonb_build_object('order_id', p_order_id), p_order_id::text);
  update app.orders
  set looks = least(v_order.looks + 1, 10), looked_at = app.clock_now()
  where id = p_order_id;
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

create or replace function app.require_may_buy(p_user_id uuid)
  returns void
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if app.is_buying_stopped(p_user_id, null, null) then
    raise exception 'too many disputes'
      using errcode = 'JS403', detail = '{"reason": "buying_stopped"}';
  end if;
end $$;

create or replace function app.require_unpaid_room(p_user_id uuid)
  returns void
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_max integer;
begin
  select unpaid_orders_per_hour into v_max from app.payment_terms;
  if (
    select coalesce(sum(greatest(1, (
      select count(*)
      from app.order_sessions
      where order_id = orders.id
        and created_at > app.now() - interval '1 hour'))), 0) >= v_max
    from app.orders
    where user_id = p_user_id
      and paid_at is null
      and attempted_at > app.now() - interval '1 hour'
  ) then
    raise exception 'too many unpaid orders'
      using errcode = 'JS429', detail = jsonb_build_object(
        'reason', 'unpaid_orders', 'limit', v_max)::text;
  end if;
end $$;

create or replace function app.retry_order(p_order_id uuid, p_attempt integer)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_order app.orders;
begin
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
    return;
  end if;
  if v_order.state not in ('failed', 'expired') then
    raise exception 'not to be retried' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', 'not_retryable', 'state', v_order.state)::text;
  end if;
  perform app.require_may_buy(v_user_id);
  perform app.require_unpaid_room(v_user_id);
  update app.orders
  set attempt = attempt + 1,
    attempted_at = app.now(),
    version = version + 1,
    state = 'created',
    expires_at = date_trunc('second', app.now()) + interval '1 hour',
    failure_reason = null,
    session_id = null,
    session_url = null,
    looks = 0
  where id = p_order_id;
end $$;

create or replace function app.returnable_payment(p_order app.orders, p_payment_id text)
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

create or replace function app.review_order(
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
  perform app.require_admin();
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
    and coalesce(provider_payment_id, v_before.provider_payment_id)
      is not distinct from v_before.provider_payment_id
    and state in ('open', 'lost');
  v_returned := least(v_before.amount_total, v_returned + (
    select coalesce(sum(amount), 0)
    from app.payment_returns
    where order_id = p_order_id
      and coalesce(provider_payment_id, v_before.provider_payment_id)
        is not distinct from v_before.provider_payment_id
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

create or replace function app.start_order(p_order_id uuid, p_pack_slug text)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_pack app.packs;
  v_order_id uuid;
begin
  perform app.lock_account(v_user_id);
  select *
  into v_pack
  from app.packs
  where slug = p_pack_slug
    and is_active;
  if not found then
    raise exception 'no such pack' using errcode = 'JS404', detail = '{"kind": "pack"}';
  end if;
  perform app.require_may_buy(v_user_id);
  select id
  into v_order_id
  from app.orders
  where user_id = v_user_id
    and (
      id = p_order_id
      or (pack_slug = v_pack.slug
        and pack_version = v_pack.version
        and state in ('created', 'open')
        and attempted_at > app.now() - interval '25 minutes'))
  order by (id = p_order_id) desc, attempted_at desc
  limit 1;
  if found then
    return v_order_id;
  end if;
  perform app.require_unpaid_room(v_user_id);
  insert into app.orders (
    id, user_id, pack_slug, pack_version, credits, unit_amount, currency, expires_at
  )
  values (p_order_id, v_user_id, v_pack.slug, v_pack.version, v_pack.credits, v_pack.unit_amount,
    v_pack.currency, date_trunc('second', app.now()) + interval '1 hour');
  return p_order_id;
end $$;

create or replace function app.sync_order(
  p_order_id uuid, p_version integer, p_fetch_started_at timestamptz, p_state jsonb
)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid;
  v_before app.orders;
  v_order app.orders;
  v_fetched record;
  v_review text;
begin
  select user_id into v_user_id from app.orders where id = p_order_id;
  if not found then
    raise exception 'no such order' using errcode = 'JS404', detail = '{"kind": "order"}';
  end if;
  perform app.lock_account(v_user_id);
  select * into v_before from app.orders where id = p_order_id for no key update;
  if v_before.version <> p_version then
    if v_before.fetch_started_at is null or v_before.fetch_started_at < p_fetch_started_at then
      return null;
    end if;
    v_order := v_before;
  else
    select *
    into v_fetched
    from jsonb_to_record(p_state) as fetched (
      outcome text, review_reason text, failure_reason text, session_id text, session_url text,
      customer_id text, provider_payment_id text, amount_total bigint, invoice_id text,
      invoice_url text, invoice_pdf_url text, receipt_url text, payment_method text,
      card_fingerprint text, returns jsonb, disputes jsonb, other_payments jsonb);
    if app.is_payment_of_another(p_order_id, v_fetched.provider_payment_id) then
      v_fetched.provider_payment_id := null;
      v_fetched.returns := '[]';
      v_fetched.disputes := '[]';
      v_review := 'other_payment';
    elsif v_fetched.outcome = 'paid'
      and v_before.paid_at is null
      and (v_before.review_session_id is distinct from v_fetched.session_id
        or v_before.review_decision <> 'accepted')
      and app.is_buying_stopped(v_user_id, v_fetched.card_fingerprint, p_order_id)
    then
      v_review := 'buying_stopped';
    end if;
    if v_review is not null
      and v_before.paid_at is null
      and v_fetched.outcome in ('paid', 'review')
    then
      v_fetched.outcome := 'review';
      v_fetched.review_reason := v_review;
    end if;
    if v_fetched.outcome = 'paid' and v_before.paid_at is null then
      perform app.grant_credits(
        v_user_id, v_before.credits, 'purchase', 'order:' || p_order_id, null,
        'order:' || p_order_id);
    end if;
    if v_fetched.session_id is not null then
      insert into app.order_sessions (session_id, order_id, attempt)
      values (v_fetched.session_id, p_order_id, v_before.attempt)
      on conflict do nothing;
    end if;
    update app.orders
    set fetch_started_at = p_fetch_started_at,
      session_id = coalesce(v_fetched.session_id, session_id),
      session_url = case
        when v_fetched.outcome = 'open' then coalesce(v_fetched.session_url, session_url) end,
      customer_id = coalesce(v_fetched.customer_id, customer_id),
      review_reason = v_fetched.review_reason,
      invoice_id = coalesce(v_fetched.invoice_id, invoice_id),
      invoice_url = coalesce(v_fetched.invoice_url, invoice_url),
      invoice_pdf_url = coalesce(v_fetched.invoice_pdf_url, invoice_pdf_url),
      receipt_url = coalesce(v_fetched.receipt_url, receipt_url),
      payment_method = coalesce(v_fetched.payment_method, payment_method),
      card_fingerprint = coalesce(v_fetched.card_fingerprint, card_fingerprint),
      looks = case when v_fetched.outcome = state then looks else 0 end
    where id = p_order_id;
    -- What was paid stays as it was paid; settle_order moves the state from here on.
    update app.orders
    set state = v_fetched.outcome,
      paid_at = case when v_fetched.outcome = 'paid' then app.now() end,
      provider_payment_id = coalesce(v_fetched.provider_payment_id, provider_payment_id),
      amount_total = v_fetched.amount_total,
      failure_reason = v_fetched.failure_reason
    where id = p_order_id
      and paid_at is null
    returning * into v_order;
    if v_order.paid_at is not null
      or (v_order.state in ('failed', 'expired') and v_order.state <> v_before.state)
    then
      perform app.emit(
        v_user_id, 'order.' || case when v_order.paid_at is null then v_order.state else 'paid' end,
        p_order_id, v_order.version + 1,  -- settle_order raises it
        jsonb_build_object('pack', v_order.pack_slug, 'credits', v_order.credits,
          'amount_total', coalesce(v_order.amount_total, v_order.unit_amount),
          'currency', v_order.currency));
    end if;
    insert into app.order_payments (provider_payment_id, order_id, session_id, amount_total)
    select payment_id, p_order_id, session_id, amount_total
    from jsonb_to_recordset(v_fetched.other_payments) as fetched (
      payment_id text, session_id text, amount_total bigint)
    where not app.is_payment_of_another(p_order_id, payment_id)
    on conflict do nothing;
    perform app.mirror_returns(v_before, v_fetched.returns);
    perform app.mirror_disputes(v_before, v_fetched.disputes);
    v_order := app.settle_order(p_order_id);
    perform app.close_pages_if_stopped(v_user_id);
    perform app.note_provider_key(false);
  end if;
  return jsonb_build_object('state', v_order.state, 'was', v_before.state,
    'granted', v_before.paid_at is null and v_order.paid_at is not null,
    'credits_reversed', v_order.credits_reversed - v_before.credits_reversed);
end $$;

create or replace function app.take_unsettled_orders(
  p_older_than_seconds double precision, p_tried_before timestamptz, p_limit integer
)
  returns setof uuid
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.orders
  set tried_at = app.clock_now()
  where id in (
    select id
    from app.orders
    where state in ('created', 'open', 'processing')
      and attempted_at < app.now() - make_interval(secs => p_older_than_seconds)
      and (tried_at is null or tried_at < p_tried_before)
    order by tried_at nulls first, attempted_at
    limit p_limit
    for no key update skip locked)
  returning id
$$;

comment on function app.acknowledge_dispute is
$$An admin knows of a dispute, and has answered it at the provider or lets it be: it alarms no more.
Audited. Errors: JS403, JS404.$$;

comment on function app.acknowledge_fraud_warning is
$$An admin knows of a warning and lets the payment be: it alarms no more. Audited.
Errors: JS403, JS404.$$;

comment on function app.admin_return is
$$An admin gives back any amount of an order's payment, null for all that is left; audited. Of an order
that was paid twice it is the payment that nothing was given for, unless p_payment_id names another.
Locks: account, order, lots. Errors: JS403, JS404, JS409, JS422, JS432 (key with other terms).
Returns the return's id. Replay: the same key and terms find the same return.$$;

comment on function app.close_pages_if_stopped is
$$A page that was opened before could be paid until it expires by itself.$$;

comment on function app.continue_order is
$$Before each step to a payment page: the buyer may still buy, and a page that is made now has time
left. An order that has ended stays as it is.
Locks: order. Errors: JS401, JS403 {reason: buying_stopped}, JS404.$$;

comment on function app.end_attempt is
$$There will be no page for this attempt, and p_reason says why. Replay: an order that has moved on
stays as it is.$$;

comment on function app.is_buying_stopped is
$$Whether somebody, or the card of a payment, has so many open or lost disputes that nothing more is
sold, other accounts that paid with the same card included. A card is judged where a quarter of its
payments is disputed, so that one which many share, such as a test card, is not stopped by two.
Disputes of p_order_id itself do not count.$$;

comment on function app.is_payment_of_another is
$$Whether a payment is another order's already.$$;

comment on function app.note_provider_key is
$$Whether the provider has refused our key, or taken it since: for /readyz.$$;

comment on function app.open_return is
$$One return of an order's money: the row, its credits at once, and the task that makes it at the
provider.
Expects the locks of account and order.$$;

comment on function app.record_fraud_warning is
$$Mirrors a bank's report of fraud about an order.$$;

comment on function app.renew_attempt is
$$A new attempt whose page has time left: the provider wants half an hour at least, by its own clock,
which may be before ours. Returns the order as it is.
Replay: only the attempt that was seen is left behind.$$;

comment on function app.request_order_sync is
$$Has an order that has not ended synced. A request of a reader is no news: the pause between two
looks doubles, from 1 to 30 seconds, and a sync that has failed and backs off does not run sooner.
Locks: order. Errors: JS401, JS404.$$;

comment on function app.require_may_buy is
$$The one gate of every way to a payment page. Errors: JS403 {reason: buying_stopped}.$$;

comment on function app.require_unpaid_room is
$$A bound on the payment pages of an hour that nobody paid, new orders and other tries alike: cards
are tried out on them. Errors: JS429 {reason: unpaid_orders, limit}.$$;

comment on function app.retry_order is
$$A new attempt at a failed or expired order: a new session for the same order. The caller has
made sure that the session before can no longer be paid.
Locks: account, order. Errors: JS401, JS403 {reason: buying_stopped}, JS404, JS409 {reason, state},
JS429 {reason: unpaid_orders, limit}.$$;

comment on function app.returnable_payment is
$$A payment of the order that nothing was given for: the named one, or that of an order which was
paid twice; and what of it is still ours. No row: the payment that the order was granted for.$$;

comment on function app.review_order is
$$An admin's decision about the session in review: accepted, its order is granted by the next sync if
the session is still paid; rejected, its money goes back, and where nothing was paid the order ends.
Audited. Locks: account, order. Errors: JS403, JS404, JS409 {reason, state}.$$;

comment on function app.settle_order is
$$Recomputes what of a paid order goes back and posts the difference, never the sum of events. Only
the payment that it was granted for counts: what goes back of a second one takes no credits.
Expects the locks of account and order. Posts under the order's version, which rises each time.$$;

comment on function app.take_unsettled_orders is
$$Orders that wait for the provider and that this round has not come to yet: those that were tried
longest ago first. That they are tried is written down before it is done, so that one which cannot
be synced is not the first of the next round again. Locks: order.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

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
          and coalesce(provider_payment_id, orders.provider_payment_id)
            is not distinct from orders.provider_payment_id
          and state in ('requested', 'pending', 'requires_action', 'succeeded')), 0)
      + coalesce((
        select sum(amount)
        from app.payment_disputes
        where order_id = orders.id
          and coalesce(provider_payment_id, orders.provider_payment_id)
            is not distinct from orders.provider_payment_id
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

grant execute on function app.acknowledge_dispute(text,text) to jewelshot_admin;

grant execute on function app.acknowledge_fraud_warning(text,text) to jewelshot_admin;

grant execute on function app.admin_return(uuid,uuid,bigint,text,text,text) to jewelshot_admin;

grant execute on function app.continue_order(uuid) to jewelshot_user;

grant execute on function app.end_attempt(uuid,integer,text) to jewelshot_api;

grant execute on function app.note_provider_key(boolean) to jewelshot_api;

grant execute on function app.note_provider_key(boolean) to jewelshot_worker;

grant execute on function app.record_fraud_warning(text,uuid,text,text,boolean,timestamp with time zone) to jewelshot_worker;

grant execute on function app.renew_attempt(uuid,integer) to jewelshot_api;

grant execute on function app.review_order(uuid,text,text,uuid,text) to jewelshot_admin;

grant execute on function app.take_unsettled_orders(double precision,timestamp with time zone,integer) to jewelshot_worker;
