-- The provider's totals against ours, and what operators see of payments.
-- after: base, tasks, orders, returns, stripe_events

-- A day's paid sessions by the provider's records and by ours.
create table app.payment_days (
  day date primary key,
  provider_count bigint not null,
  provider_amount bigint not null,
  our_count bigint not null,
  our_amount bigint not null,
  differing jsonb not null default '[]',
  compared_at timestamptz not null default app.now()
);

alter table app.payment_days enable row level security;
alter table app.payment_days force row level security;

revoke all on app.payment_days from public, anon, authenticated, service_role;

grant select, insert, update on app.payment_days to jewelshot_ledger;
grant select on app.payment_days to jewelshot_admin, jewelshot_worker;

create policy payment_days_writer on app.payment_days to jewelshot_ledger
  using (true) with check (true);
create policy payment_days_admin on app.payment_days for select to jewelshot_admin
  using ((select app.is_admin()));
create policy payment_days_worker on app.payment_days for select to jewelshot_worker using (true);

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.record_payment_day(
  p_day date, p_provider_count bigint, p_provider_amount bigint, p_our_count bigint,
  p_our_amount bigint, p_differing jsonb
)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  insert into app.payment_days (
    day, provider_count, provider_amount, our_count, our_amount, differing
  )
  values (p_day, p_provider_count, p_provider_amount, p_our_count, p_our_amount, p_differing)
  on conflict (day) do update
  set provider_count = excluded.provider_count,
    provider_amount = excluded.provider_amount,
    our_count = excluded.our_count,
    our_amount = excluded.our_amount,
    differing = excluded.differing,
    compared_at = app.now()
$$;
comment on function app.record_payment_day is
$$Records the totals of a day, the provider's and ours.$$;

create function app.payments_health()
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
comment on function app.payments_health is
$$What lags or differs in payments, for /readyz: all zeros and false is well.$$;

create function app.payments_figures()
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
comment on function app.payments_figures is
$$The same and the sales as figures for /metrics.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.payments_health(),
  app.payments_figures()
  to jewelshot_api;
grant execute on function
  app.record_payment_day(date, bigint, bigint, bigint, bigint, jsonb)
  to jewelshot_worker;

create function app.prove_orders()
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
comment on function app.prove_orders is
$$Orders and the ledger agree: granted once, clawed back as much as returns and disputes require,
at the pack's price.
Owned by the migrating role, which bypasses row level security; row_security = off makes a role
that would be filtered raise instead of seeing nothing.$$;

grant execute on function app.prove_orders() to jewelshot_worker;

create function app.prove_purchases()
  returns table (check_name text, table_name text, row_id text, detail jsonb)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set row_security = off
as $$
  select 'purchase_reason', 'credit_lots', lot.id::text, jsonb_build_object(
    'user_id', lot.user_id, 'granted', lot.granted, 'idempotency_key', lot.idempotency_key,
    'reference', lot.reference)
  from app.credit_lots as lot
  where lot.source = 'purchase'
    and not exists (
      select
      from app.orders
      where lot.idempotency_key = 'order:' || orders.id
        and lot.reference = 'order:' || orders.id
        and lot.user_id = orders.user_id
        and lot.granted = orders.credits
        and orders.paid_at is not null
    )
$$;
comment on function app.prove_purchases is
$$Bought credits were bought: each such lot is the one of a paid order of its owner.
Owned by the migrating role, which bypasses row level security; row_security = off makes a role
that would be filtered raise instead of seeing nothing.$$;

grant execute on function app.prove_purchases() to jewelshot_worker;
