-- The proof of the whole database, and what operators look at.

-- Every row that does not follow from the others; no row means that the ledger balances.
-- Owned by the migrating role, which bypasses row level security; row_security = off makes a role
-- that would be filtered raise instead of seeing nothing.
create function app.reconcile()
  returns table (check_name text, table_name text, row_id text, detail jsonb)
  language sql
  stable
  security definer
  set search_path = ''
  set row_security = off
  set statement_timeout = '10min'
as $$
  -- The transfers' own shape: the key says what the row is.
  select 'transfer_key', 'ledger_transfers', transfer.id::text, to_jsonb(transfer)
  from app.ledger_transfers as transfer
  where case transfer.kind
    when 'grant' then transfer.idempotency_key <> 'grant:' || lot_id || ':' || credit
    when 'reserve' then transfer.idempotency_key <> 'reserve:' || reservation_id || ':' || lot_id
    when 'confirm' then transfer.idempotency_key <> 'confirm:' || reservation_id
    when 'refund' then transfer.idempotency_key
      <> 'refund:' || reservation_id || ':' || coalesce(lot_id::text, 'debt')
    when 'expire' then not starts_with(transfer.idempotency_key, 'expire:' || lot_id || ':')
    else transfer.idempotency_key !~ (
      '^' || kind || ':.+:' || case when debit = 'debt' then 'debt' else lot_id::text end || '$')
    end is not false

  union all
  select 'transfer_owner', 'ledger_transfers', transfer.id::text, jsonb_build_object(
    'user_id', transfer.user_id, 'lot_user_id', lot.user_id,
    'reservation_user_id', reservation.user_id, 'subject_id', transfer.subject_id)
  from app.ledger_transfers as transfer
  left join app.credit_lots as lot on lot.id = transfer.lot_id
  left join app.reservations as reservation on reservation.id = transfer.reservation_id
  where (transfer.lot_id is not null and lot.user_id is distinct from transfer.user_id)
    or (transfer.reservation_id is not null and (
      reservation.user_id is distinct from transfer.user_id
      or reservation.subject_id is distinct from transfer.subject_id))

  union all
  select 'account_balance', 'credit_accounts', coalesce(account.user_id, posted.user_id)::text,
    jsonb_build_object(
      'available', account.available, 'transfers_available', coalesce(posted.available, 0),
      'reserved', account.reserved, 'transfers_reserved', coalesce(posted.reserved, 0),
      'debt', account.debt, 'transfers_debt', coalesce(posted.debt, 0))
  from app.credit_accounts as account
  full join (
    select user_id,
      sum(amount) filter (where credit = 'available')
        - coalesce(sum(amount) filter (where debit = 'available'), 0) as available,
      sum(amount) filter (where credit = 'reserved')
        - coalesce(sum(amount) filter (where debit = 'reserved'), 0) as reserved,
      coalesce(sum(amount) filter (where debit = 'debt'), 0)
        - coalesce(sum(amount) filter (where credit = 'debt'), 0) as debt
    from app.ledger_transfers
    group by user_id
  ) as posted on posted.user_id = account.user_id
  where account.user_id is null
    or account.available <> coalesce(posted.available, 0)
    or account.reserved <> coalesce(posted.reserved, 0)
    or account.debt <> coalesce(posted.debt, 0)

  union all
  select 'account_lots', 'credit_accounts', account.user_id::text, jsonb_build_object(
    'available', account.available, 'lots_remaining', coalesce(lots.remaining, 0))
  from app.credit_accounts as account
  left join (
    select user_id, sum(remaining) as remaining
    from app.credit_lots
    group by user_id
  ) as lots on lots.user_id = account.user_id
  where account.available <> coalesce(lots.remaining, 0)

  union all
  select 'account_pending', 'credit_accounts', account.user_id::text, jsonb_build_object(
    'reserved', account.reserved, 'pending_reservations', coalesce(pending.amount, 0))
  from app.credit_accounts as account
  left join (
    select user_id, sum(amount) as amount
    from app.reservations
    where state = 'pending'
    group by user_id
  ) as pending on pending.user_id = account.user_id
  where account.reserved <> coalesce(pending.amount, 0)

  union all
  select 'user_without_account', 'users', person.id::text, '{}'
  from app.users as person
  where not exists (select from app.credit_accounts where user_id = person.id)

  union all
  select 'lot_transfers', 'credit_lots', lot.id::text, jsonb_build_object(
    'granted', lot.granted, 'transfers_granted', posted.granted,
    'remaining', lot.remaining, 'transfers_remaining', posted.remaining,
    'source', lot.source, 'transfers_debit', posted.debit,
    'expires_at', lot.expires_at, 'transfers_expires_at', posted.expires_at)
  from app.credit_lots as lot
  left join (
    select lot_id,
      sum(amount) filter (where kind = 'grant') as granted,
      coalesce(sum(amount) filter (where credit = 'available'), 0)
        - coalesce(sum(amount) filter (where debit = 'available'), 0) as remaining,
      min(debit) filter (where kind = 'grant') as debit,
      (array_agg(lot_expires_at order by id desc) filter (where kind in ('grant', 'refund')))[1]
        as expires_at
    from app.ledger_transfers
    where lot_id is not null
    group by lot_id
  ) as posted on posted.lot_id = lot.id
  where lot.granted is distinct from posted.granted
    or lot.remaining is distinct from posted.remaining
    or lot.expires_at is distinct from posted.expires_at
    or posted.debit is distinct from case lot.source
      when 'purchase' then 'sales' when 'signup' then 'promo' when 'adjustment' then 'adjustments'
      else lot.source end

  union all
  select 'reservation_transfers', 'reservations', reservation.id::text, jsonb_build_object(
    'state', reservation.state, 'amount', reservation.amount,
    'transfers_reserved', posted.reserved, 'transfers_confirmed', posted.confirmed,
    'transfers_refunded', posted.refunded)
  from app.reservations as reservation
  left join (
    select reservation_id,
      coalesce(sum(amount) filter (where kind = 'reserve'), 0) as reserved,
      coalesce(sum(amount) filter (where kind = 'confirm'), 0) as confirmed,
      coalesce(sum(amount) filter (where kind = 'refund'), 0) as refunded
    from app.ledger_transfers
    where reservation_id is not null
    group by reservation_id
  ) as posted on posted.reservation_id = reservation.id
  where posted.reserved is distinct from reservation.amount
    or posted.confirmed is distinct from
      case reservation.state when 'confirmed' then reservation.amount else 0 end
    or posted.refunded is distinct from
      case reservation.state when 'refunded' then reservation.amount else 0 end

  union all
  select 'reservation_lots', 'reservation_lots',
    coalesce(link.reservation_id, posted.reservation_id) || '/'
      || coalesce(link.lot_id, posted.lot_id),
    jsonb_build_object('amount', link.amount, 'transfers_reserved', posted.amount)
  from app.reservation_lots as link
  full join (
    select reservation_id, lot_id, amount
    from app.ledger_transfers
    where kind = 'reserve'
  ) as posted on posted.reservation_id = link.reservation_id and posted.lot_id = link.lot_id
  where link.amount is distinct from posted.amount

  -- The end of a generation and the end of its money are the same event.
  union all
  select 'generation_money', 'generations', generation.id::text, jsonb_build_object(
    'state', generation.state, 'cost_credits', generation.cost_credits,
    'reservation_state', reservation.state, 'reservation_amount', reservation.amount)
  from app.generations as generation
  left join app.reservations as reservation
    on reservation.subject_id = generation.id and reservation.purpose = 'run'
  where reservation.user_id is distinct from generation.user_id
    or reservation.amount is distinct from generation.cost_credits
    or reservation.state is distinct from case generation.state
      when 'succeeded' then 'confirmed' when 'failed' then 'refunded'
      when 'cancelled' then 'refunded' else 'pending' end

  union all
  select 'reservation_subject', 'reservations', reservation.id::text, jsonb_build_object(
    'subject_id', reservation.subject_id, 'created_at', reservation.created_at)
  from app.reservations as reservation
  where reservation.purpose = 'run'
    and not exists (select from app.generations where id = reservation.subject_id)

  union all
  select 'reservation_overdue', 'reservations', reservation.id::text, jsonb_build_object(
    'subject_id', reservation.subject_id, 'deadline_at', generation.deadline_at)
  from app.reservations as reservation
  join app.generations as generation on generation.id = reservation.subject_id
  where reservation.state = 'pending'
    and generation.deadline_at < now() - interval '5 minutes'
$$;

-- One JSON document for /readyz: what is alive and what lags. Cheap: partial indexes only.
create function app.health()
  returns jsonb
  language sql
  stable
  security definer
  set search_path = ''
as $$
  select jsonb_build_object(
    'workers', (
      select count(*)
      from app.worker_heartbeats
      where seen_at > now() - interval '30 seconds'),
    'provider_accounts', (select count(*) from app.provider_accounts),
    'provider_accounts_healthy', (
      select count(*)
      from app.provider_accounts
      where breaker_state = 'closed'),
    'outbox_lag_seconds', (
      select coalesce(extract(epoch from now() - min(due_at)), 0)
      from app.outbox
      where due_at < now()),
    'queue_age_seconds', (
      select coalesce(extract(epoch from now() - min(available_at)), 0)
      from app.generations
      where state = 'queued'
        and available_at < now()),
    'dead_letters_last_hour', (
      select count(*)
      from app.dead_letters
      where died_at > now() - interval '1 hour'
        and replayed_at is null))
$$;

-- Gauges and counters for /metrics as (name, labels, value).
create function app.metrics()
  returns table (name text, labels jsonb, value double precision)
  language sql
  stable
  security definer
  set search_path = ''
as $$
  select 'jewelshot_generations_open', jsonb_build_object('state', known.state),
    count(generation.id)::double precision
  from unnest(array['queued', 'submitting', 'running', 'collecting', 'uncertain']) as known (state)
  left join app.generations as generation
    on generation.state = known.state
    and generation.state in ('queued', 'submitting', 'running', 'collecting', 'uncertain')
  group by known.state
  union all
  select 'jewelshot_queue_depth', jsonb_build_object('priority', known.label),
    count(generation.id)
  from (values (0, 'interactive'), (1, 'batch')) as known (priority, label)
  left join app.generations as generation
    on generation.state = 'queued' and generation.priority = known.priority
  group by known.label
  union all
  select 'jewelshot_queue_age_seconds', '{}',
    coalesce(extract(epoch from now() - min(available_at)), 0)
  from app.generations
  where state = 'queued'
    and available_at < now()
  union all
  select 'jewelshot_outbox_lag_seconds', '{}',
    coalesce(extract(epoch from now() - min(due_at)), 0)
  from app.outbox
  where due_at < now()
  union all
  select 'jewelshot_outbox_tasks', '{}', count(*)
  from app.outbox
  union all
  select 'jewelshot_dead_letters', '{}', count(*)
  from app.dead_letters
  where replayed_at is null
  union all
  select 'jewelshot_credits_reserved', '{}', coalesce(sum(amount), 0)
  from app.reservations
  where state = 'pending'
  union all
  select 'jewelshot_provider_slots', jsonb_build_object('account', account.name), account.slots
  from app.provider_accounts as account
  union all
  select 'jewelshot_provider_slots_held', jsonb_build_object('account', account.name),
    count(call.id)
  from app.provider_accounts as account
  left join app.provider_calls as call
    on call.account_id = account.id and call.state in ('submitting', 'accepted', 'ambiguous')
  group by account.name
  union all
  select 'jewelshot_provider_breaker_open', jsonb_build_object('account', account.name),
    (breaker_state <> 'closed')::integer
  from app.provider_accounts as account
  union all
  select 'jewelshot_workers', '{}', count(*)
  from app.worker_heartbeats
  where seen_at > now() - interval '30 seconds'
  union all
  select counter.name, counter.labels, counter.value
  from app.metric_counters as counter
$$;

-- The newest applied migration, for "at head?"; the ledger itself stays the migrating role's.
create function app.schema_version()
  returns text
  language sql
  stable
  security definer
  set search_path = ''
as $$
  select max(version)
  from supabase_migrations.schema_migrations
$$;

insert into app.schedules (name, job, every_seconds)
values
  ('credits.expire', 'credits.expire', 3600),
  ('credits.reconcile', 'credits.reconcile', 86400),
  ('uploads.expire', 'uploads.expire', 3600),
  ('late_images.expire', 'late_images.expire', 3600),
  ('housekeeping.purge', 'housekeeping.purge', 3600);

grant create on schema app to jewelshot_ledger;
alter function app.health() owner to jewelshot_ledger;
alter function app.metrics() owner to jewelshot_ledger;
revoke create on schema app from jewelshot_ledger;

grant execute on function app.reconcile() to jewelshot_worker;
grant execute on function app.health(), app.metrics(), app.schema_version() to jewelshot_api;
grant execute on function app.schema_version() to jewelshot_worker;
