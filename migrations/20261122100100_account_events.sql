-- What a person should hear about their account, written in the transaction in which it happens.
-- The first is that credits run low.

create table app.account_events (
  id bigint generated always as identity primary key,  -- one person's rise in the order of commit
  user_id uuid not null references app.users (id) on delete restrict,
  kind text not null,
  detail jsonb not null default '{}',
  created_at timestamptz not null default now(),
  constraint account_events_kind check (kind in ('credits.low', 'credits.empty'))
);

create index account_events_user on app.account_events (user_id, id desc);

-- When credits are low, as data: changed by a migration or an admin's SQL, never by a caller.
create table app.balance_terms (
  id boolean primary key default true,
  low_credits bigint not null,
  constraint balance_terms_one_row check (id),
  constraint balance_terms_low_positive check (low_credits > 0)
);

insert into app.balance_terms (low_credits)
values (5);

alter table app.account_events enable row level security;
alter table app.account_events force row level security;
alter table app.balance_terms enable row level security;
alter table app.balance_terms force row level security;

revoke all on app.account_events, app.balance_terms
  from public, anon, authenticated, service_role;
grant select, insert on app.account_events to jewelshot_ledger;
grant select on app.account_events to authenticated, jewelshot_admin;
grant select on app.balance_terms to jewelshot_ledger, jewelshot_admin;

create policy account_events_writer on app.account_events to jewelshot_ledger
  using (true) with check (true);
create policy account_events_own on app.account_events for select to authenticated
  using (user_id = (select app.current_user_id()));
create policy account_events_admin on app.account_events for select to jewelshot_admin
  using ((select app.is_admin()));
create policy balance_terms_reader on app.balance_terms for select to jewelshot_ledger
  using (true);
create policy balance_terms_admin on app.balance_terms for select to jewelshot_admin
  using ((select app.is_admin()));

-- One event when what is left falls to the low mark, another when it falls to nothing; straight to
-- nothing is that one alone. What is left are available *and* reserved credits: those set aside
-- may come back, so setting them aside and giving them back say nothing, however often a person
-- tries; only credits that are gone (spent, expired, taken back) can cross a mark, and only credits
-- that come in rise above it again. The figures before and after are all that this asks, under the
-- account's lock, so each crossing is seen once and there is nothing to remember.
-- Locks: none of its own.
create function app.note_low_balance()
  returns trigger
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_before bigint := old.available + old.reserved;
  v_left bigint := new.available + new.reserved;
  v_low bigint;
begin
  select low_credits
  into v_low
  from app.balance_terms;
  if v_left = 0 or (v_left <= v_low and v_before > v_low) then
    insert into app.account_events (user_id, kind, detail)
    values (new.user_id, case v_left when 0 then 'credits.empty' else 'credits.low' end,
      jsonb_build_object('available', new.available, 'reserved', new.reserved,
        'low_credits', v_low));
  end if;
  return null;
end $$;

-- The condition keeps the trigger out of every reservation and refund: no function is called.
create trigger credit_accounts_note_low_balance
  after update of available, reserved on app.credit_accounts
  for each row
  when (new.available + new.reserved < old.available + old.reserved)
  execute function app.note_low_balance();

grant create on schema app to jewelshot_ledger;
alter function app.note_low_balance() owner to jewelshot_ledger;
revoke create on schema app from jewelshot_ledger;
