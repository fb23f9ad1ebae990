-- Second payments of an order, disputes with their deadline, warnings of fraud, cards that are known again.

set local lock_timeout = '10s';

alter table app.payment_terms rename column lost_disputes_max to disputes_max;

create table app.payment_provider (
  id boolean primary key default true,
  key_refused_at timestamptz,
  constraint payment_provider_one_row check (id)
);
insert into app.payment_provider default values;

alter table app.orders
  add column tried_at timestamptz,
  add column looks integer not null default 0,
  add column looked_at timestamptz,
  add column payment_method text,
  add column card_fingerprint text,
  add column review_decision text,
  add column review_session_id text,
  add constraint orders_review_decision check (review_decision in ('accepted', 'rejected')),
  add constraint orders_review_session check (
    (review_decision is null) = (review_session_id is null));
create index orders_card_fingerprint on app.orders (card_fingerprint)
  where card_fingerprint is not null;

alter table app.order_sessions add column price_id text;

create table app.order_payments (
  provider_payment_id text primary key,
  order_id uuid not null references app.orders (id) on delete restrict,
  session_id text not null,
  amount_total bigint not null,
  created_at timestamptz not null default app.now()
);
create index order_payments_order_id on app.order_payments (order_id);

alter table app.payment_returns add column provider_payment_id text;

alter table app.payment_disputes
  add column provider_payment_id text,
  add column is_answer_due boolean not null default false,
  add column evidence_due_at timestamptz,
  add column acknowledged_at timestamptz;
create index payment_disputes_created on app.payment_disputes (created_at desc, dispute_id desc);

create table app.fraud_warnings (
  warning_id text primary key,
  order_id uuid not null references app.orders (id) on delete restrict,
  user_id uuid not null references app.users (id) on delete restrict,
  provider_payment_id text,
  fraud_type text not null,
  is_actionable boolean not null,
  acknowledged_at timestamptz,
  created_at timestamptz not null default app.now(),
  updated_at timestamptz not null default app.now()
);
create index fraud_warnings_order_id on app.fraud_warnings (order_id);
create index fraud_warnings_user_id on app.fraud_warnings (user_id);
create index fraud_warnings_created on app.fraud_warnings (created_at desc, warning_id desc);

alter table app.payment_provider enable row level security;
alter table app.payment_provider force row level security;
alter table app.order_payments enable row level security;
alter table app.order_payments force row level security;
alter table app.fraud_warnings enable row level security;
alter table app.fraud_warnings force row level security;

revoke all on app.payment_provider, app.order_payments, app.fraud_warnings
  from public, anon, authenticated, service_role;
grant select, update on app.payment_provider to jewelshot_ledger;
grant select, insert on app.order_payments to jewelshot_ledger;
grant select on app.order_payments to jewelshot_admin, jewelshot_worker;
grant select, insert, update on app.fraud_warnings to jewelshot_ledger;
grant select on app.fraud_warnings to jewelshot_admin;

create policy payment_provider_writer on app.payment_provider to jewelshot_ledger
  using (true) with check (true);
create policy order_payments_writer on app.order_payments to jewelshot_ledger
  using (true) with check (true);
create policy order_payments_admin on app.order_payments for select to jewelshot_admin
  using ((select app.is_admin()));
create policy order_payments_worker on app.order_payments for select to jewelshot_worker
  using (true);
create policy fraud_warnings_writer on app.fraud_warnings to jewelshot_ledger
  using (true) with check (true);
create policy fraud_warnings_admin on app.fraud_warnings for select to jewelshot_admin
  using ((select app.is_admin()));
