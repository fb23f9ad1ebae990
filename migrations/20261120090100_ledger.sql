-- Money: accounts with debt, lots with expiry, reservations, and the append-only transfers that
-- prove them. Whole credits. The account's row is the mutex of a user's money: every function
-- locks it first, then reservation, lots, subject.

create table app.users (
  id uuid primary key,  -- of auth.users, without a foreign key: money history outlives the account
  created_at timestamptz not null default now()
);

create table app.credit_accounts (
  user_id uuid primary key references app.users (id) on delete restrict,
  available bigint not null default 0,
  reserved bigint not null default 0,
  debt bigint not null default 0,
  updated_at timestamptz not null default now(),
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
  created_at timestamptz not null default now(),
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
  created_at timestamptz not null default now(),
  resolved_at timestamptz,
  constraint reservations_subject unique (subject_id, purpose),
  constraint reservations_purpose check (purpose in ('run', 'late_image', 'batch')),
  constraint reservations_amount_positive check (amount > 0),
  constraint reservations_state check (state in ('pending', 'confirmed', 'refunded')),
  constraint reservations_resolved check ((state = 'pending') = (resolved_at is null))
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
  created_at timestamptz not null default now(),
  digest bytea not null,  -- of all the columns above, so that a changed line names itself
  constraint ledger_transfers_idempotency_key unique (idempotency_key),
  constraint ledger_transfers_amount_positive check (amount > 0),
  constraint ledger_transfers_kind
    check (kind in ('grant', 'reserve', 'confirm', 'refund', 'expire', 'reverse', 'adjust')),
  constraint ledger_transfers_accounts check (
    (kind = 'grant' and debit in ('sales', 'signup', 'promo', 'gift', 'referral', 'adjustments')
      and credit in ('available', 'debt'))
    or (kind = 'reserve' and debit = 'available' and credit = 'reserved')
    or (kind = 'confirm' and debit = 'reserved' and credit = 'usage')
    or (kind = 'refund' and debit = 'reserved' and credit in ('available', 'debt'))
    or (kind = 'expire' and debit = 'available' and credit = 'expired')
    or (kind = 'reverse' and debit in ('available', 'debt') and credit = 'sales')
    or (kind = 'adjust' and debit in ('available', 'debt') and credit = 'adjustments')
  ),
  -- What is available lies in a lot; debt and what is spent do not. Only a reservation's lines
  -- have a reservation and its subject.
  constraint ledger_transfers_lot check (
    (lot_id is null) = (kind = 'confirm' or (kind <> 'grant' and 'debt' in (debit, credit)))),
  constraint ledger_transfers_reservation check (
    (reservation_id is null) = (kind in ('grant', 'expire', 'reverse', 'adjust'))
    and (reservation_id is null) = (subject_id is null))
);

create index ledger_transfers_user on app.ledger_transfers (user_id, id desc);
create index ledger_transfers_lot_id on app.ledger_transfers (lot_id);
create index ledger_transfers_reservation_id on app.ledger_transfers (reservation_id);
create index ledger_transfers_subject_id on app.ledger_transfers (subject_id);

-- app.reconcile() has the same expression: a function of it would cost five times as much there.
create function app.seal_transfer()
  returns trigger
  language plpgsql
  set search_path = ''
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

create trigger ledger_transfers_seal
  before insert on app.ledger_transfers
  for each row execute function app.seal_transfer();
create trigger ledger_transfers_append_only
  before update or delete on app.ledger_transfers
  for each statement execute function app.refuse_change();
create trigger ledger_transfers_no_truncate
  before truncate on app.ledger_transfers
  for each statement execute function app.refuse_change();

-- Row level security. Owner stays the migrating role, the writer is another role: not even a bug
-- in a function can drop, disable or rewrite.
alter table app.users enable row level security;
alter table app.users force row level security;
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

revoke all on app.users, app.credit_accounts, app.credit_lots, app.reservations,
  app.reservation_lots, app.ledger_transfers
  from public, anon, authenticated, service_role;

grant select, insert on app.users to jewelshot_ledger;
grant select, insert, update (available, reserved, debt, updated_at)
  on app.credit_accounts to jewelshot_ledger;
grant select, insert, update (remaining, expires_at) on app.credit_lots to jewelshot_ledger;
grant select, insert, update (state, resolved_at) on app.reservations to jewelshot_ledger;
grant select, insert on app.reservation_lots to jewelshot_ledger;
grant select, insert on app.ledger_transfers to jewelshot_ledger;

grant select on app.users, app.credit_accounts, app.credit_lots, app.reservations,
  app.reservation_lots, app.ledger_transfers
  to authenticated, jewelshot_admin, jewelshot_worker;

create policy users_writer on app.users to jewelshot_ledger using (true) with check (true);
create policy users_own on app.users for select to authenticated
  using (id = (select app.current_user_id()));
create policy users_admin on app.users for select to jewelshot_admin
  using ((select app.is_admin()));
create policy users_worker on app.users for select to jewelshot_worker using (true);

create policy credit_accounts_writer on app.credit_accounts to jewelshot_ledger
  using (true) with check (true);
create policy credit_accounts_own on app.credit_accounts for select to authenticated
  using (user_id = (select app.current_user_id()));
create policy credit_accounts_admin on app.credit_accounts for select to jewelshot_admin
  using ((select app.is_admin()));
create policy credit_accounts_worker on app.credit_accounts for select to jewelshot_worker
  using (true);

create policy credit_lots_writer on app.credit_lots to jewelshot_ledger
  using (true) with check (true);
create policy credit_lots_own on app.credit_lots for select to authenticated
  using (user_id = (select app.current_user_id()));
create policy credit_lots_admin on app.credit_lots for select to jewelshot_admin
  using ((select app.is_admin()));
create policy credit_lots_worker on app.credit_lots for select to jewelshot_worker using (true);

create policy reservations_writer on app.reservations to jewelshot_ledger
  using (true) with check (true);
create policy reservations_own on app.reservations for select to authenticated
  using (user_id = (select app.current_user_id()));
create policy reservations_admin on app.reservations for select to jewelshot_admin
  using ((select app.is_admin()));
create policy reservations_worker on app.reservations for select to jewelshot_worker using (true);

create policy reservation_lots_writer on app.reservation_lots to jewelshot_ledger
  using (true) with check (true);
create policy reservation_lots_own on app.reservation_lots for select to authenticated
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
create policy ledger_transfers_own on app.ledger_transfers for select to authenticated
  using (user_id = (select app.current_user_id()));
create policy ledger_transfers_admin on app.ledger_transfers for select to jewelshot_admin
  using ((select app.is_admin()));
create policy ledger_transfers_worker on app.ledger_transfers for select to jewelshot_worker
  using (true);
