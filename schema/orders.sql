-- What is sold for money: packs, orders, and the sessions in which they can be paid. Whoever takes
-- the money is called the provider.
-- Lock order: account, order, task.
-- after: base, people, events, credits, tasks

-- One row a version; a new price is a new version, the old one stays for its orders.
create table app.packs (
  slug text not null,
  version integer not null,
  title text not null,
  credits bigint not null,
  unit_amount bigint not null,  -- in the currency's smallest unit, before discount and tax
  currency text not null,
  lookup_key text not null,  -- of the provider's price
  is_active boolean not null default true,
  created_at timestamptz not null default app.now(),
  primary key (slug, version),
  constraint packs_credits_positive check (credits > 0),
  constraint packs_unit_amount_positive check (unit_amount > 0),
  constraint packs_currency check (currency ~ '^[a-z]{3}$')
);
create unique index packs_only_one_active on app.packs (slug) where is_active;

-- Terms of sale, as data: changed by a migration or an admin's SQL, never by a caller.
create table app.payment_terms (
  id boolean primary key default true,
  return_days integer not null,
  buyer_returns_per_month integer not null,  -- of one buyer, who asks for them without anybody's help
  disputes_max integer not null,  -- open or lost: with so many nothing more is sold
  unpaid_orders_per_hour integer not null,
  constraint payment_terms_one_row check (id)
);

-- What is known of our account at the provider.
create table app.payment_provider (
  id boolean primary key default true,
  key_refused_at timestamptz,  -- null: our key was taken when it was used last
  constraint payment_provider_one_row check (id)
);

create table app.payment_customers (
  user_id uuid primary key references app.users (id) on delete restrict,
  customer_id text not null,
  created_at timestamptz not null default app.now(),
  constraint payment_customers_customer_id unique (customer_id)
);

-- A purchase. It exists before the provider is called. `version` rises with every fetched state that
-- was written: a writer whose snapshot is older than the row finds another version.
create table app.orders (
  id uuid primary key,
  user_id uuid not null references app.users (id) on delete restrict,
  pack_slug text not null,
  pack_version integer not null,
  credits bigint not null,
  unit_amount bigint not null,
  currency text not null,
  state text not null default 'created',
  version integer not null default 0,
  fetch_started_at timestamptz,  -- when the fetch began that was written last, by the database's clock
  tried_at timestamptz,  -- when the schedule set out to fetch last, whatever came of it
  looks integer not null default 0,  -- what the buyer's page has asked for, one after the other
  looked_at timestamptz,  -- when it asked last
  attempt integer not null default 1,  -- one attempt, one session, one idempotency key
  attempted_at timestamptz not null default app.now(),
  expires_at timestamptz not null,
  session_id text,
  session_url text,
  price_id text,
  customer_id text,
  provider_payment_id text,
  payment_method text,
  card_fingerprint text,  -- the same for the same card, whoever pays with it
  amount_total bigint,
  amount_returned bigint not null default 0,  -- on its way back, or held by a dispute
  credits_reversed bigint not null default 0,
  failure_reason text,
  review_reason text,
  review_decision text,  -- an admin's, about the session that was in review
  review_session_id text,
  invoice_id text,
  invoice_url text,
  invoice_pdf_url text,
  receipt_url text,
  created_at timestamptz not null default app.now(),
  paid_at timestamptz,
  constraint orders_pack foreign key (pack_slug, pack_version) references app.packs (slug, version),
  constraint orders_session unique (session_id),
  constraint orders_provider_payment unique (provider_payment_id),
  constraint orders_reversed check (credits_reversed between 0 and credits),
  constraint orders_state check (state in ('created', 'open', 'processing', 'failed', 'expired',
    'review', 'paid', 'partially_refunded', 'refunded', 'disputed', 'charged_back')),
  constraint orders_review_decision check (review_decision in ('accepted', 'rejected')),
  constraint orders_review_session check ((review_decision is null) = (review_session_id is null)),
  constraint orders_paid check ((paid_at is not null)
    = (state in ('paid', 'partially_refunded', 'refunded', 'disputed', 'charged_back')))
);
create index orders_user on app.orders (user_id, created_at desc, id desc);
create index orders_pack on app.orders (pack_slug, pack_version);
create index orders_unsettled on app.orders (attempted_at)
  where state in ('created', 'open', 'processing');
create index orders_review on app.orders (created_at) where review_reason is not null;
create index orders_card_fingerprint on app.orders (card_fingerprint)
  where card_fingerprint is not null;
create index orders_paid_at on app.orders (paid_at) where paid_at is not null;

-- Every session that was ever made for an order: an older one may be paid at its last second.
create table app.order_sessions (
  session_id text primary key,
  order_id uuid not null references app.orders (id) on delete restrict,
  attempt integer not null,
  price_id text,  -- that the session was made at; null where its answer was lost
  created_at timestamptz not null default app.now()
);
create index order_sessions_order_id on app.order_sessions (order_id);

-- Payments of an order beside the one that it was granted for: two pages of it were paid.
create table app.order_payments (
  provider_payment_id text primary key,
  order_id uuid not null references app.orders (id) on delete restrict,
  session_id text not null,
  amount_total bigint not null,
  created_at timestamptz not null default app.now()
);
create index order_payments_order_id on app.order_payments (order_id);

alter table app.packs enable row level security;
alter table app.packs force row level security;
alter table app.payment_terms enable row level security;
alter table app.payment_terms force row level security;
alter table app.payment_provider enable row level security;
alter table app.payment_provider force row level security;
alter table app.payment_customers enable row level security;
alter table app.payment_customers force row level security;
alter table app.orders enable row level security;
alter table app.orders force row level security;
alter table app.order_sessions enable row level security;
alter table app.order_sessions force row level security;
alter table app.order_payments enable row level security;
alter table app.order_payments force row level security;

revoke all on
  app.packs, app.payment_terms, app.payment_customers, app.orders, app.order_sessions,
  app.order_payments, app.payment_provider
  from public, anon, authenticated, service_role;

grant select on app.packs
  to jewelshot_user, jewelshot_ledger, jewelshot_worker, jewelshot_admin, jewelshot_api;
grant select on app.payment_terms to jewelshot_user, jewelshot_ledger, jewelshot_admin;
grant select, update on app.payment_provider to jewelshot_ledger;
grant select, insert, update on app.payment_customers to jewelshot_ledger;
grant select on app.payment_customers to jewelshot_user, jewelshot_admin, jewelshot_worker;
grant select, insert, update on app.orders to jewelshot_ledger;
grant select on app.orders to jewelshot_user, jewelshot_admin, jewelshot_worker;
grant select, insert on app.order_sessions to jewelshot_ledger;
grant select on app.order_sessions to jewelshot_admin, jewelshot_worker;
grant select, insert on app.order_payments to jewelshot_ledger;
grant select on app.order_payments to jewelshot_admin, jewelshot_worker;

create policy packs_everyone on app.packs for select
  to jewelshot_user, jewelshot_ledger, jewelshot_worker, jewelshot_admin, jewelshot_api
  using (true);
create policy payment_terms_reader on app.payment_terms for select
  to jewelshot_user, jewelshot_ledger, jewelshot_admin using (true);
create policy payment_provider_writer on app.payment_provider to jewelshot_ledger
  using (true) with check (true);
create policy payment_customers_writer on app.payment_customers to jewelshot_ledger
  using (true) with check (true);
create policy payment_customers_own on app.payment_customers for select to jewelshot_user
  using (user_id = (select app.current_user_id()));
create policy payment_customers_admin on app.payment_customers for select to jewelshot_admin
  using ((select app.is_admin()));
create policy payment_customers_worker on app.payment_customers for select to jewelshot_worker
  using (true);
create policy orders_writer on app.orders to jewelshot_ledger using (true) with check (true);
create policy orders_own on app.orders for select to jewelshot_user
  using (user_id = (select app.current_user_id()));
create policy orders_admin on app.orders for select to jewelshot_admin
  using ((select app.is_admin()));
create policy orders_worker on app.orders for select to jewelshot_worker using (true);
create policy order_sessions_writer on app.order_sessions to jewelshot_ledger
  using (true) with check (true);
create policy order_sessions_admin on app.order_sessions for select to jewelshot_admin
  using ((select app.is_admin()));
create policy order_sessions_worker on app.order_sessions for select to jewelshot_worker
  using (true);
create policy order_payments_writer on app.order_payments to jewelshot_ledger
  using (true) with check (true);
create policy order_payments_admin on app.order_payments for select to jewelshot_admin
  using ((select app.is_admin()));
create policy order_payments_worker on app.order_payments for select to jewelshot_worker
  using (true);

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.require_may_buy(p_user_id uuid)
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
comment on function app.require_may_buy is
$$The one gate of every way to a payment page. Errors: JS403 {reason: buying_stopped}.$$;

create function app.require_unpaid_room(p_user_id uuid)
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
comment on function app.require_unpaid_room is
$$A bound on the payment pages of an hour that nobody paid, new orders and other tries alike: cards
are tried out on them. Errors: JS429 {reason: unpaid_orders, limit}.$$;

create function app.start_order(p_order_id uuid, p_pack_slug text)
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
comment on function app.start_order is
$$Opens an order for a pack, or returns the caller's open one: a double click buys once.
Returns its id. Locks: account. Errors: JS401, JS403 {reason: buying_stopped},
JS404 {kind: pack | credit_account}, JS429. Replay: the same id returns the same order.$$;

create function app.retry_order(p_order_id uuid, p_attempt integer)
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
comment on function app.retry_order is
$$A new attempt at a failed or expired order: a new session for the same order. The caller has
made sure that the session before can no longer be paid.
Locks: account, order. Errors: JS401, JS403 {reason: buying_stopped}, JS404, JS409 {reason, state},
JS429 {reason: unpaid_orders, limit}.$$;

create function app.continue_order(p_order_id uuid)
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
comment on function app.continue_order is
$$Before each step to a payment page: the buyer may still buy, and a page that is made now has time
left. An order that has ended stays as it is.
Locks: order. Errors: JS401, JS403 {reason: buying_stopped}, JS404.$$;

create function app.renew_attempt(p_order_id uuid, p_attempt integer)
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
comment on function app.renew_attempt is
$$A new attempt whose page has time left: the provider wants half an hour at least, by its own clock,
which may be before ours. Returns the order as it is.
Replay: only the attempt that was seen is left behind.$$;

create function app.end_attempt(p_order_id uuid, p_attempt integer, p_reason text)
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
comment on function app.end_attempt is
$$There will be no page for this attempt, and p_reason says why. Replay: an order that has moved on
stays as it is.$$;

create function app.next_attempt(p_order_id uuid, p_attempt integer)
  returns app.orders
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_order app.orders;
begin
  update app.orders
  set attempt = attempt + 1
  where id = p_order_id
    and attempt = p_attempt
    and state = 'created';
  select * into v_order from app.orders where id = p_order_id;
  return v_order;
end $$;
comment on function app.next_attempt is
$$After an answer that the provider stores with its key for good (a 500): the next call takes a new
key. Returns the order as it is. Replay: only the attempt that was seen is left behind.$$;

create function app.record_session(
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
  perform app.note_provider_key(false);
  select * into v_order from app.orders where id = p_order_id;
  return v_order;
end $$;
comment on function app.record_session is
$$The provider's session of an attempt. Returns the order as it is. Replay: the same session changes
nothing.$$;

create function app.record_customer(p_user_id uuid, p_customer_id text, p_replaces text)
  returns text
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_customer_id text;
begin
  insert into app.payment_customers (user_id, customer_id)
  values (p_user_id, p_customer_id)
  on conflict do nothing;  -- on either key: two that create at once get one customer
  update app.payment_customers
  set customer_id = p_customer_id, created_at = app.now()
  where user_id = p_user_id
    and customer_id = p_replaces;
  select customer_id
  into v_customer_id
  from app.payment_customers
  where user_id = p_user_id;
  return v_customer_id;
end $$;
comment on function app.record_customer is
$$The provider's customer of a user; p_replaces is one that no longer exists at the provider.
Returns the customer that counts: of two that were made at once the first.$$;

create function app.request_order_sync(p_order_id uuid)
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
comment on function app.request_order_sync is
$$Has an order that has not ended synced. A request of a reader is no news: the pause between two
looks doubles, from 1 to 30 seconds, and a sync that has failed and backs off does not run sooner.
Locks: order, task. Errors: JS401, JS404.$$;

create function app.take_unsettled_orders(
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
comment on function app.take_unsettled_orders is
$$Orders that wait for the provider and that this round has not come to yet: those that were tried
longest ago first. That they are tried is written down before it is done, so that one which cannot
be synced is not the first of the next round again. Locks: order.$$;

create function app.settle_order(p_order_id uuid)
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
comment on function app.settle_order is
$$Recomputes what of a paid order goes back and posts the difference, never the sum of events. Only
the payment that it was granted for counts: what goes back of a second one takes no credits.
Expects the locks of account and order. Posts under the order's version, which rises each time.$$;

create function app.is_payment_of_another(p_order_id uuid, p_payment_id text)
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
comment on function app.is_payment_of_another is
$$Whether a payment is another order's already.$$;

create function app.close_pages_if_stopped(p_user_id uuid)
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
comment on function app.close_pages_if_stopped is
$$A page that was opened before could be paid until it expires by itself.$$;

create function app.note_provider_key(p_is_refused boolean)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.payment_provider
  set key_refused_at = case when p_is_refused then app.now() end
  where (key_refused_at is not null) <> p_is_refused
$$;
comment on function app.note_provider_key is
$$Whether the provider has refused our key, or taken it since: for /readyz.$$;

create function app.sync_order(
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

create function app.has_bought(p_user_id uuid)
  returns boolean
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from app.orders
    where user_id = p_user_id
      and state in ('paid', 'partially_refunded', 'disputed')
  )
$$;
comment on function app.has_bought is
$$Whether the person has paid for something and not had all of it back. Granted to no role.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.start_order(uuid, text),
  app.retry_order(uuid, integer),
  app.continue_order(uuid),
  app.request_order_sync(uuid)
  to jewelshot_user;
grant execute on function
  app.next_attempt(uuid, integer),
  app.renew_attempt(uuid, integer),
  app.end_attempt(uuid, integer, text),
  app.note_provider_key(boolean),
  app.record_session(uuid, integer, text, text, text, text),
  app.record_customer(uuid, text, text)
  to jewelshot_api;
grant execute on function
  app.take_unsettled_orders(double precision, timestamptz, integer),
  app.note_provider_key(boolean),
  app.sync_order(uuid, integer, timestamptz, jsonb)
  to jewelshot_worker;

create trigger orders_paid
  after update of paid_at on app.orders
  for each row when (old.paid_at is null and new.paid_at is not null)
  execute function app.give_withheld_credits();
