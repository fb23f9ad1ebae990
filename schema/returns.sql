-- Money that goes back: the mirror of Stripe's refunds and disputes, and the refunds that we ask
-- for.
-- Lock order: account, order, task.
-- after: base, people, credits, audit, tasks, orders

-- Refunds: ours from the moment they are asked for, and those that were made at Stripe.
create table app.payment_refunds (
  id uuid primary key default gen_random_uuid(),
  order_id uuid not null references app.orders (id) on delete restrict,
  user_id uuid not null references app.users (id) on delete restrict,
  amount bigint not null,
  currency text not null,
  origin text not null,
  reason text,
  state text not null default 'requested',
  attempt integer not null default 1,
  stripe_refund_id text,
  failure_reason text,
  idempotency_key text,
  created_at timestamptz not null default app.now(),
  updated_at timestamptz not null default app.now(),
  constraint payment_refunds_stripe_refund_id unique (stripe_refund_id),
  constraint payment_refunds_idempotency_key unique (order_id, idempotency_key),
  constraint payment_refunds_amount_positive check (amount > 0),
  constraint payment_refunds_origin check (origin in ('buyer', 'admin', 'stripe')),
  constraint payment_refunds_state check (state in (
    'requested', 'pending', 'requires_action', 'succeeded', 'failed', 'canceled', 'refused'))
);
create index payment_refunds_order_id on app.payment_refunds (order_id);
create index payment_refunds_user on app.payment_refunds (user_id, created_at desc, id desc);
create index payment_refunds_requested on app.payment_refunds (created_at)
  where state = 'requested';

create table app.payment_disputes (
  dispute_id text primary key,
  order_id uuid not null references app.orders (id) on delete restrict,
  user_id uuid not null references app.users (id) on delete restrict,
  amount bigint not null,
  status text not null,
  reason text,
  created_at timestamptz not null default app.now(),
  updated_at timestamptz not null default app.now()
);
create index payment_disputes_order_id on app.payment_disputes (order_id);
create index payment_disputes_user_id on app.payment_disputes (user_id);

alter table app.payment_refunds enable row level security;
alter table app.payment_refunds force row level security;
alter table app.payment_disputes enable row level security;
alter table app.payment_disputes force row level security;

revoke all on
  app.payment_refunds, app.payment_disputes
  from public, anon, authenticated, service_role;

grant select, insert, update on app.payment_refunds to jewelshot_ledger;
grant select on app.payment_refunds to jewelshot_user, jewelshot_admin, jewelshot_worker;
grant select, insert, update on app.payment_disputes to jewelshot_ledger;
grant select on app.payment_disputes to jewelshot_user, jewelshot_admin, jewelshot_worker;

create policy payment_refunds_writer on app.payment_refunds to jewelshot_ledger
  using (true) with check (true);
create policy payment_refunds_own on app.payment_refunds for select to jewelshot_user
  using (user_id = (select app.current_user_id()));
create policy payment_refunds_admin on app.payment_refunds for select to jewelshot_admin
  using ((select app.is_admin()));
create policy payment_refunds_worker on app.payment_refunds for select to jewelshot_worker
  using (true);
create policy payment_disputes_writer on app.payment_disputes to jewelshot_ledger
  using (true) with check (true);
create policy payment_disputes_own on app.payment_disputes for select to jewelshot_user
  using (user_id = (select app.current_user_id()));
create policy payment_disputes_admin on app.payment_disputes for select to jewelshot_admin
  using ((select app.is_admin()));
create policy payment_disputes_worker on app.payment_disputes for select to jewelshot_worker
  using (true);

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.mirror_refunds(p_order app.orders, p_refunds jsonb)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
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
      updated_at = app.now()
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
comment on function app.mirror_refunds is
$$Mirrors Stripe's refunds of an order; one of ours is known by its id in the metadata.$$;

create function app.open_refund(
  p_refund_id uuid, p_order app.orders, p_amount bigint, p_origin text, p_reason text, p_key text
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into app.payment_refunds (
    id, order_id, user_id, amount, currency, origin, reason, idempotency_key
  )
  values (p_refund_id, p_order.id, p_order.user_id, p_amount, p_order.currency, p_origin,
    p_reason, p_key);
  perform app.settle_order(p_order.id);
  perform app.add_task(
    'refund.create', jsonb_build_object('refund_id', p_refund_id), p_refund_id::text,
    'interactive');
end $$;
comment on function app.open_refund is
$$One refund of an order: the row, its credits at once, and the task that asks
Stripe for it.
Expects the locks of account and order.$$;

create function app.refundable_order(p_order_id uuid, p_user_id uuid)
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
    when v_order.amount_total = 0 then 'nothing_paid'
    when v_order.amount_gone >= v_order.amount_total then 'all_returned' end;
  if v_reason is not null then
    raise exception 'not refundable' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', v_reason, 'state', v_order.state)::text;
  end if;
  return v_order;
end $$;
comment on function app.refundable_order is
$$The order, locked, if money of it can go back. Expects the lock of the account.
Errors: JS404, JS409 {reason, state}.$$;

create function app.request_refund(
  p_refund_id uuid, p_order_id uuid, p_credits bigint, p_reason text
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
  v_gone := ceil(v_order.amount_total * v_target / v_order.credits);
  if v_order.credits * v_gone / v_order.amount_total > v_target then
    v_gone := floor(v_order.amount_total * v_target / v_order.credits);
  end if;
  if v_gone <= v_order.amount_gone then
    raise exception 'worth nothing' using errcode = 'JS422', detail =
      '{"field": "credits", "reason": "worth_nothing"}';
  end if;
  perform app.open_refund(
    p_refund_id, v_order, v_gone - v_order.amount_gone, 'buyer', p_reason, null);
end $$;
comment on function app.request_refund is
$$The buyer gives unused credits of an order back; p_credits null is all of them. They leave the
balance now, so that they cannot be spent while Stripe works; a refused refund restores them.
Locks: account, order, lots. Errors: JS401, JS404, JS409 {reason}, JS422 {field, reason}.
Replay: the same refund id does nothing more.$$;

create function app.admin_refund(
  p_refund_id uuid, p_order_id uuid, p_amount bigint, p_reason text, p_key text
)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
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
      from app.audit_log as line
      join app.audit_details as told on told.audit_id = line.id
      where line.action = 'payment.refund'
        and line.target = p_order_id::text
        and told.detail = v_terms
    ) then
      raise exception 'refund key used with other terms' using errcode = 'JS432';
    end if;
    return v_known.id;
  end if;
  v_order := app.refundable_order(p_order_id, v_user_id);
  v_amount := coalesce(p_amount, v_order.amount_total - v_order.amount_gone);
  if v_amount not between 1 and v_order.amount_total - v_order.amount_gone then
    raise exception 'more than left' using errcode = 'JS422', detail = jsonb_build_object(
      'field', 'amount', 'reason', 'more_than_left',
      'left', v_order.amount_total - v_order.amount_gone)::text;
  end if;
  perform app.open_refund(p_refund_id, v_order, v_amount, 'admin', p_reason, p_key);
  perform app.write_audit('payment.refund', p_order_id::text, v_terms);
  return p_refund_id;
end $$;
comment on function app.admin_refund is
$$An admin gives back any amount of an order, null for all that is left; audited.
Locks: account, order, lots. Errors: JS403, JS404, JS409, JS422, JS432 (key with other terms).
Returns the refund's id. Replay: the same key and terms return the same refund.$$;

create function app.refuse_refund(p_refund_id uuid, p_reason text, p_lease_token uuid)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
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
  set state = 'refused', failure_reason = p_reason, updated_at = app.now()
  where id = p_refund_id
    and state = 'requested';
  if found then
    perform app.settle_order(v_refund.order_id);
  end if;
  perform app.complete_task(p_lease_token);
end $$;
comment on function app.refuse_refund is
$$Stripe will not make this refund: its credits come back. Locks: account, order, lots, task.
Errors: JS404, JS430. Replay: a refund that has ended stays as it is.$$;

create function app.next_refund_attempt(p_refund_id uuid, p_attempt integer)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.payment_refunds
  set attempt = attempt + 1
  where id = p_refund_id
    and attempt = p_attempt
    and state = 'requested'
$$;
comment on function app.next_refund_attempt is
$$As next_attempt, for a refund.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function app.request_refund(uuid, uuid, bigint, text) to jewelshot_user;
grant execute on function
  app.refuse_refund(uuid, text, uuid),
  app.next_refund_attempt(uuid, integer)
  to jewelshot_worker;
grant execute on function app.admin_refund(uuid, uuid, bigint, text, text) to jewelshot_admin;
