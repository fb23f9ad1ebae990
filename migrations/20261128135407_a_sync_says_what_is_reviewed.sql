-- A sync says why its order is reviewed, also where the database decided so.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

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
    if v_order.state in ('disputed', 'charged_back') and v_before.state <> v_order.state then
      perform app.close_pages_if_stopped(others.user_id)
      from (
        select distinct user_id
        from app.orders
        where card_fingerprint = v_order.card_fingerprint
          and user_id <> v_user_id) as others;
    end if;
    perform app.note_provider_key(false);
  end if;
  return jsonb_build_object('state', v_order.state, 'was', v_before.state,
    'granted', v_before.paid_at is null and v_order.paid_at is not null,
    'credits_reversed', v_order.credits_reversed - v_before.credits_reversed,
    'review_reason', v_order.review_reason);
end $$;

comment on function app.sync_order is
$$Writes the state of an order at the provider: the state, the grant once, and what is clawed back
since. The fetch started at p_fetch_started_at with the snapshot of p_version; if the row has
changed since, the answer is null and the caller fetches again, unless a state was written whose fetch began later: then
that one counts.
p_state is a FetchedState of core/payments/fetch.py.
Returns {state, was, granted, credits_reversed, review_reason}, credits as a difference.
Locks: account, order, lots. Errors: JS404. Replay: the same state posts nothing.$$;

reset role;
revoke create on schema app from jewelshot_ledger;
