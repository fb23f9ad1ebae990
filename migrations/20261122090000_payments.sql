-- What is sold for money: packs, orders, the mirror of Stripe's refunds and disputes, and its events.

-- One row a version; a new price is a new version, the old one stays for its orders.
create table app.packs (
  slug text not null,
  version integer not null,
  title text not null,
  credits bigint not null,
  unit_amount bigint not null,  -- in the currency's smallest unit, before discount and tax
  currency text not null,
  lookup_key text not null,  -- of the Stripe price
  is_active boolean not null default true,
  created_at timestamptz not null default now(),
  primary key (slug, version),
  constraint packs_credits_positive check (credits > 0),
  constraint packs_unit_amount_positive check (unit_amount > 0),
  constraint packs_currency check (currency ~ '^[a-z]{3}$')
);

create unique index packs_only_one_active on app.packs (slug) where is_active;

-- Terms of sale, as data: changed by a migration or an admin's SQL, never by a caller.
create table app.payment_terms (
  id boolean primary key default true,
  refund_days integer not null,
  lost_disputes_max integer not null,
  unpaid_orders_per_hour integer not null,
  constraint payment_terms_one_row check (id)
);

insert into app.payment_terms (refund_days, lost_disputes_max, unpaid_orders_per_hour)
values (14, 2, 10);

create table app.stripe_customers (
  user_id uuid primary key references app.users (id) on delete restrict,
  customer_id text not null,
  created_at timestamptz not null default now(),
  constraint stripe_customers_customer_id unique (customer_id)
);

-- A purchase. It exists before Stripe is called. `version` rises with every look at Stripe that
-- was written down: a writer whose look is older than the row's finds another version.
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
  asked_at timestamptz,  -- when the look began that was written last, by the database's clock
  attempt integer not null default 1,  -- one attempt, one session, one idempotency key
  attempted_at timestamptz not null default now(),
  expires_at timestamptz not null,
  session_id text,
  session_url text,
  price_id text,
  customer_id text,
  payment_intent text,
  amount_total bigint,
  amount_gone bigint not null default 0,  -- refunded or held by a dispute
  credits_reversed bigint not null default 0,
  failure_reason text,
  review_reason text,
  invoice_id text,
  invoice_url text,
  invoice_pdf_url text,
  receipt_url text,
  created_at timestamptz not null default now(),
  paid_at timestamptz,
  constraint orders_pack foreign key (pack_slug, pack_version) references app.packs (slug, version),
  constraint orders_session unique (session_id),
  constraint orders_payment_intent unique (payment_intent),
  constraint orders_reversed check (credits_reversed between 0 and credits),
  constraint orders_state check (state in ('created', 'open', 'processing', 'failed', 'expired',
    'review', 'paid', 'partially_refunded', 'refunded', 'disputed', 'charged_back')),
  constraint orders_paid check ((paid_at is not null)
    = (state in ('paid', 'partially_refunded', 'refunded', 'disputed', 'charged_back')))
);

create index orders_user on app.orders (user_id, created_at desc, id desc);
create index orders_pack on app.orders (pack_slug, pack_version);
create index orders_unsettled on app.orders (attempted_at)
  where state in ('created', 'open', 'processing');
create index orders_review on app.orders (created_at) where review_reason is not null;
create index orders_paid_at on app.orders (paid_at) where paid_at is not null;

-- Every session that was ever made for an order: an older one may be paid at its last second.
create table app.order_sessions (
  session_id text primary key,
  order_id uuid not null references app.orders (id) on delete restrict,
  attempt integer not null,
  created_at timestamptz not null default now()
);

create index order_sessions_order_id on app.order_sessions (order_id);

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
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
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
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create index payment_disputes_order_id on app.payment_disputes (order_id);
create index payment_disputes_user_id on app.payment_disputes (user_id);

-- What Stripe told us, as it was signed. Kept for a month after it was handled.
create table app.stripe_events (
  id text primary key,
  type text not null,
  object_id text,
  created timestamptz not null,
  payload jsonb not null,
  source text not null,
  received_at timestamptz not null default now(),
  handled_at timestamptz,
  outcome text,
  order_id uuid references app.orders (id) on delete restrict,
  replays integer not null default 0,
  constraint stripe_events_source check (source in ('webhook', 'reconcile')),
  constraint stripe_events_handled check ((handled_at is null) = (outcome is null))
);

create index stripe_events_received on app.stripe_events (received_at desc, id desc);
create index stripe_events_unhandled on app.stripe_events (received_at) where handled_at is null;
create index stripe_events_handled_at on app.stripe_events (handled_at);
create index stripe_events_order_id on app.stripe_events (order_id);

-- A day's paid sessions by Stripe's books and by ours.
create table app.payment_days (
  day date primary key,
  stripe_count bigint not null,
  stripe_amount bigint not null,
  our_count bigint not null,
  our_amount bigint not null,
  differing jsonb not null default '[]',
  compared_at timestamptz not null default now()
);

alter table app.packs enable row level security;
alter table app.packs force row level security;
alter table app.payment_terms enable row level security;
alter table app.payment_terms force row level security;
alter table app.stripe_customers enable row level security;
alter table app.stripe_customers force row level security;
alter table app.orders enable row level security;
alter table app.orders force row level security;
alter table app.order_sessions enable row level security;
alter table app.order_sessions force row level security;
alter table app.payment_refunds enable row level security;
alter table app.payment_refunds force row level security;
alter table app.payment_disputes enable row level security;
alter table app.payment_disputes force row level security;
alter table app.stripe_events enable row level security;
alter table app.stripe_events force row level security;
alter table app.payment_days enable row level security;
alter table app.payment_days force row level security;

revoke all on app.packs, app.payment_terms, app.stripe_customers, app.orders, app.order_sessions,
  app.payment_refunds, app.payment_disputes, app.stripe_events, app.payment_days
  from public, anon, authenticated, service_role;

grant select on app.packs
  to anon, authenticated, jewelshot_ledger, jewelshot_worker, jewelshot_admin, jewelshot_api;
create policy packs_everyone on app.packs for select
  to anon, authenticated, jewelshot_ledger, jewelshot_worker, jewelshot_admin, jewelshot_api
  using (true);

grant select on app.payment_terms to authenticated, jewelshot_ledger, jewelshot_admin;
create policy payment_terms_reader on app.payment_terms for select
  to authenticated, jewelshot_ledger, jewelshot_admin using (true);

grant select, insert, update on app.stripe_customers to jewelshot_ledger;
grant select on app.stripe_customers to authenticated, jewelshot_admin, jewelshot_worker;
create policy stripe_customers_writer on app.stripe_customers to jewelshot_ledger
  using (true) with check (true);
create policy stripe_customers_own on app.stripe_customers for select to authenticated
  using (user_id = (select app.current_user_id()));
create policy stripe_customers_admin on app.stripe_customers for select to jewelshot_admin
  using ((select app.is_admin()));
create policy stripe_customers_worker on app.stripe_customers for select to jewelshot_worker
  using (true);

grant select, insert, update on app.orders to jewelshot_ledger;
grant select on app.orders to authenticated, jewelshot_admin, jewelshot_worker;
create policy orders_writer on app.orders to jewelshot_ledger using (true) with check (true);
create policy orders_own on app.orders for select to authenticated
  using (user_id = (select app.current_user_id()));
create policy orders_admin on app.orders for select to jewelshot_admin
  using ((select app.is_admin()));
create policy orders_worker on app.orders for select to jewelshot_worker using (true);

grant select, insert on app.order_sessions to jewelshot_ledger;
grant select on app.order_sessions to jewelshot_admin, jewelshot_worker;
create policy order_sessions_writer on app.order_sessions to jewelshot_ledger
  using (true) with check (true);
create policy order_sessions_admin on app.order_sessions for select to jewelshot_admin
  using ((select app.is_admin()));
create policy order_sessions_worker on app.order_sessions for select to jewelshot_worker
  using (true);

grant select, insert, update on app.payment_refunds to jewelshot_ledger;
grant select on app.payment_refunds to authenticated, jewelshot_admin, jewelshot_worker;
create policy payment_refunds_writer on app.payment_refunds to jewelshot_ledger
  using (true) with check (true);
create policy payment_refunds_own on app.payment_refunds for select to authenticated
  using (user_id = (select app.current_user_id()));
create policy payment_refunds_admin on app.payment_refunds for select to jewelshot_admin
  using ((select app.is_admin()));
create policy payment_refunds_worker on app.payment_refunds for select to jewelshot_worker
  using (true);

grant select, insert, update on app.payment_disputes to jewelshot_ledger;
grant select on app.payment_disputes to authenticated, jewelshot_admin, jewelshot_worker;
create policy payment_disputes_writer on app.payment_disputes to jewelshot_ledger
  using (true) with check (true);
create policy payment_disputes_own on app.payment_disputes for select to authenticated
  using (user_id = (select app.current_user_id()));
create policy payment_disputes_admin on app.payment_disputes for select to jewelshot_admin
  using ((select app.is_admin()));
create policy payment_disputes_worker on app.payment_disputes for select to jewelshot_worker
  using (true);

grant select, insert, update, delete on app.stripe_events to jewelshot_ledger;
grant select on app.stripe_events to jewelshot_admin, jewelshot_worker;
create policy stripe_events_writer on app.stripe_events to jewelshot_ledger
  using (true) with check (true);
create policy stripe_events_admin on app.stripe_events for select to jewelshot_admin
  using ((select app.is_admin()));
create policy stripe_events_worker on app.stripe_events for select to jewelshot_worker using (true);

grant select, insert, update on app.payment_days to jewelshot_ledger;
grant select on app.payment_days to jewelshot_admin, jewelshot_worker;
create policy payment_days_writer on app.payment_days to jewelshot_ledger
  using (true) with check (true);
create policy payment_days_admin on app.payment_days for select to jewelshot_admin
  using ((select app.is_admin()));
create policy payment_days_worker on app.payment_days for select to jewelshot_worker using (true);

insert into app.packs (slug, version, title, credits, unit_amount, currency, lookup_key)
values
  ('credits_10', 1, '10 credits', 10, 490, 'eur', 'credits_10'),
  ('credits_50', 1, '50 credits', 50, 1990, 'eur', 'credits_50'),
  ('credits_100', 1, '100 credits', 100, 3490, 'eur', 'credits_100'),
  ('credits_500', 1, '500 credits', 500, 14900, 'eur', 'credits_500');
