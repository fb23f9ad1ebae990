-- Stripe's books against ours, and what operators see of payments.

-- A day's paid sessions by Stripe's books and by ours.
create table app.payment_days (
  day date primary key,
  stripe_count bigint not null,
  stripe_amount bigint not null,
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
  p_day date, p_stripe_count bigint, p_stripe_amount bigint, p_our_count bigint,
  p_our_amount bigint, p_differing jsonb
)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  insert into app.payment_days (
    day, stripe_count, stripe_amount, our_count, our_amount, differing
  )
  values (p_day, p_stripe_count, p_stripe_amount, p_our_count, p_our_amount, p_differing)
  on conflict (day) do update
  set stripe_count = excluded.stripe_count,
    stripe_amount = excluded.stripe_amount,
    our_count = excluded.our_count,
    our_amount = excluded.our_amount,
    differing = excluded.differing,
    compared_at = app.now()
$$;
comment on function app.record_payment_day is
$$What a day's books say, Stripe's against ours.$$;

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
    'orders_in_review', (select count(*) from app.orders where review_reason is not null),
    'refunds_waiting', (
      select count(*)
      from app.payment_refunds
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

create function app.payments_metrics()
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
comment on function app.payments_metrics is
$$The same and the sales as figures for /metrics.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.payments_health(),
  app.payments_metrics()
  to jewelshot_api;
grant execute on function
  app.record_payment_day(date, bigint, bigint, bigint, bigint, jsonb)
  to jewelshot_worker;

insert into app.schedules (name, job, every_seconds)
values
  ('payments.sync_unsettled', 'payments.sync_unsettled', 600),
  ('payments.sync_completed', 'payments.sync_completed', 3600),
  ('payments.fetch_events', 'payments.fetch_events', 86400),
  ('payments.compare_day', 'payments.compare_day', 86400),
  ('payments.prune_events', 'payments.prune_events', 86400);
