-- from core.admin.service
select line.id, line.actor, line.action, line.target, line.created_at,
  coalesce(told.detail, '{}') as detail
from app.audit_log as line
left join app.audit_details as told on told.audit_id = line.id
where ($1::bigint is null or id < $1)
  and ($2::text is null or target = $2)
  and ($3::text is null or action = $3)
  and ($4::text is null or actor = $4)
order by id desc
limit $5;

-- from core.admin.service
select person.id, person.created_at, account.available, account.reserved, account.debt
from app.users as person
join app.credit_accounts as account on account.user_id = person.id
where ($1::uuid is null or person.id > $1)
  and person.id between $2 and $3
order by person.id
limit $4;

-- from core.catalog.service
select app.check_possible($1, $2, $3);

-- from core.catalog.service
select slug, version, title, description, lane, cost_credits, steps, output_rule, params_schema,
  presets, wait_seconds, batch_wait_seconds, deadline_seconds, uncertain_seconds, cancel_credits
from app.operations
where is_active
order by cost_credits, slug;

-- from core.codes.noun
select * from app.prove_codes();

-- from core.codes.queries
select app.create_codes($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- from core.codes.queries
select app.disable_codes($1, $2) as disabled;

-- from core.codes.queries
select app.redeem_code($1) as redemption;

-- from core.codes.queries
select id, issue_id, prefix, kind, credits, uses_max, uses, expires_at,
  credits_expire_after_days, campaign, note, created_by, created_at, disabled_at, status
from (
  select id, issue_id, prefix, kind, credits, uses_max, uses, expires_at,
    credits_expire_after_days, campaign, note, created_by, created_at, disabled_at,
    case
      when disabled_at is not null then 'disabled'
      when expires_at <= app.now() then 'expired'
      when uses >= uses_max then 'used_up'
      else 'active'
    end as status
  from app.codes
) as code;

-- from core.codes.queries
select id, issue_id, prefix, kind, credits, uses_max, uses, expires_at,
  credits_expire_after_days, campaign, note, created_by, created_at, disabled_at, status
from (
  select id, issue_id, prefix, kind, credits, uses_max, uses, expires_at,
    credits_expire_after_days, campaign, note, created_by, created_at, disabled_at,
    case
      when disabled_at is not null then 'disabled'
      when expires_at <= app.now() then 'expired'
      when uses >= uses_max then 'used_up'
      else 'active'
    end as status
  from app.codes
) as code

where ($1::uuid is null or id < $1)
  and ($2::text is null or kind = $2)
  and ($3::text is null or status = $3)
  and ($4::text is null or campaign = $4)
  and ($5::uuid is null or issue_id = $5)
  and ($6::text is null or prefix = $6)
order by id desc
limit $7;

-- from core.codes.queries
select id, issue_id, prefix, kind, credits, uses_max, uses, expires_at,
  credits_expire_after_days, campaign, note, created_by, created_at, disabled_at, status
from (
  select id, issue_id, prefix, kind, credits, uses_max, uses, expires_at,
    credits_expire_after_days, campaign, note, created_by, created_at, disabled_at,
    case
      when disabled_at is not null then 'disabled'
      when expires_at <= app.now() then 'expired'
      when uses >= uses_max then 'used_up'
      else 'active'
    end as status
  from app.codes
) as code
where id = $1;

-- from core.codes.queries
select user_id, lot_id, credits, paid_debt, credits_expire_at, redeemed_at
from app.code_redemptions
where code_id = $1
  and (
    $2::timestamptz is null
    or (redeemed_at, user_id) < ($2, $3)
  )
order by redeemed_at desc, user_id desc
limit $4;

-- from core.credits.noun
select * from app.credits_figures();

-- from core.credits.noun
select * from app.prove_adjustments();

-- from core.credits.noun
select * from app.prove_ledger();

-- from core.credits.noun
select * from app.prove_restores();

-- from core.credits.noun
select * from app.prove_signups();

-- from core.credits.queries
select account.available - coalesce((
    select sum(lot.remaining)
    from app.credit_lots as lot
    where lot.user_id = account.user_id
      and lot.remaining > 0
      and lot.expires_at <= app.now()
  ), 0)::bigint as available,
  account.reserved,
  account.debt
from app.credit_accounts as account
where account.user_id = $1;

-- from core.credits.queries
select id, source, granted, remaining, expires_at, created_at
from app.credit_lots
where user_id = $1
  and remaining > 0
  and (expires_at is null or expires_at > app.now())
order by expires_at nulls last, is_paid, created_at, id
limit $2;

-- from core.credits.queries
with page as (
  select entry.id, entry.kind, entry.debit, entry.credit, entry.amount, entry.lot_id, lot.source,
    entry.lot_expires_at, entry.reservation_id, entry.subject_id, entry.reference, entry.actor,
    entry.note, entry.idempotency_key, entry.created_at,
    coalesce(entry.kind = 'confirm' and entry.amount < reservation.amount, false) as is_share
  from app.ledger_transfers as entry
  left join app.credit_lots as lot on lot.id = entry.lot_id
  left join app.reservations as reservation on reservation.id = entry.reservation_id
  where entry.user_id = $1
    and ($2::bigint is null or entry.id < $2)
    and ($3::uuid is null or entry.subject_id = $3)
    and ($4::text[] = '{}' or entry.kind = any ($4))
  order by entry.id desc
  limit $5
)
select page.*, subject.operation,
  case when subject.operation is not null then page.subject_id end as generation_id,
  (select available from app.credit_accounts where user_id = $1) as available,
  (select reserved from app.credit_accounts where user_id = $1) as reserved,
  (select debt from app.credit_accounts where user_id = $1) as debt
from page
cross join lateral app.generation_operation(page.subject_id) as subject (operation)
order by page.id desc;

-- from core.credits.service
select app.adjust_credits($1, $2, $3, $4) as balance;

-- from core.credits.service
select app.expire_credits($1) as expired;

-- from core.db
select current_setting('app.wakeups', true) as note; commit;

-- from core.events.service
select app.rotate_events() as changed;

-- from core.generations.noun
select * from app.generations_figures() union all select * from app.unpaid_figures();

-- from core.generations.noun
select * from app.prove_generations();

-- from core.generations.noun
select app.generations_health() as health;

-- from core.generations.pipeline.late
delete from app.late_images where generation_id = any ($1) and bought_as is null;

-- from core.generations.pipeline.late
select generation_id, result from app.late_images where expires_at <= app.now() - make_interval(secs => $1) and bought_as is null order by expires_at limit $2;

-- from core.generations.pipeline.queries
select app.advance_generation($1, $2, $3, $4, $5) as intent;

-- from core.generations.pipeline.queries
select app.begin_collect($1, $2) as call;

-- from core.generations.pipeline.queries
select app.close_call($1, $2, $3);

-- from core.generations.pipeline.queries
select app.ensure_collect($1);

-- from core.generations.pipeline.queries
select app.finish_generation($1, $2, $3, $4);

-- from core.generations.pipeline.queries
select app.mend_lines() as mended;

-- from core.generations.pipeline.queries
select app.open_calls($1, $2, $3) as intent;

-- from core.generations.pipeline.queries
select app.record_accepted($1, $2, $3, $4, $5, $6);

-- from core.generations.pipeline.queries
select app.record_ambiguous($1, $2, $3);

-- from core.generations.pipeline.queries
select app.record_not_accepted($1, $2, $3);

-- from core.generations.pipeline.queries
select app.refresh_outlook($1) as done;

-- from core.generations.pipeline.queries
select app.requeue_generation($1, $2, $3, $4, $5);

-- from core.generations.pipeline.queries
select app.resume_running($1, $2, $3);

-- from core.generations.pipeline.queries
select app.sweep_calls($1, $2, $3);

-- from core.generations.pipeline.queries
select app.sweep_deadlines($1);

-- from core.generations.pipeline.queries
select app.whose_refusal($1) as about;

-- from core.generations.pipeline.queries
select count(*) as refusals
from app.provider_calls as call
join app.provider_calls as before
  on before.generation_id = call.generation_id and before.step = call.step
where call.id = $1
  and before.id <> call.id
  and before.state = 'refused'
  and before.http_status = $2;

-- from core.generations.pipeline.queries
select from app.outbox where job = 'provider_call.collect' and dedupe_key = $1;

-- from core.generations.pipeline.queries
select id, generation_id, provider, account_id, key_fingerprint, endpoint, state, polls, unknown_polls, request_id, status_url, cancel_url, (select name from app.provider_accounts where id = account_id) as account from app.provider_calls where id = $1;

-- from core.generations.pipeline.queries
update app.provider_calls
set next_poll_at = null
where id in (
  select id
  from app.provider_calls
  where next_poll_at <= app.now()
    and created_at <= app.now() - interval '1 day 1 hour'
  limit $1
  for update skip locked
);

-- from core.generations.pipeline.queries
update app.provider_calls
set polls = polls + 1,
  next_poll_at = case
    when state = 'abandoned' then case
      when ended_at > app.now() - make_interval(secs => $1) then
        app.now() + least(make_interval(secs => $2),
          greatest(make_interval(secs => $3), (app.now() - ended_at) / 4)) end
    when created_at > app.now() - interval '1 day' then
      app.now() + make_interval(secs => least($3, power(2, least(polls, 10)))) end
where id in (
  select id
  from app.provider_calls as call
  where next_poll_at <= app.now()
    and account_id in (
      select account.id
      from app.provider_accounts as account
      join app.provider_keys as key on key.account_id = account.id
      where key.fingerprint = any ($4)
        and coalesce(account.looks_paused_until, app.now()) <= app.now())
    and not exists (
      select
      from app.outbox
      where job = 'provider_call.collect'
        and dedupe_key = call.id::text)
    and state <> 'abandoned'
  order by next_poll_at
  limit $5
  for update skip locked
)
returning id, generation_id, provider, account_id, key_fingerprint, endpoint, state, polls, unknown_polls, request_id, status_url, cancel_url, (select name from app.provider_accounts where id = account_id) as account;

-- from core.generations.pipeline.queries
update app.provider_calls
set polls = polls + 1,
  next_poll_at = case
    when state = 'abandoned' then case
      when ended_at > app.now() - make_interval(secs => $1) then
        app.now() + least(make_interval(secs => $2),
          greatest(make_interval(secs => $3), (app.now() - ended_at) / 4)) end
    when created_at > app.now() - interval '1 day' then
      app.now() + make_interval(secs => least($3, power(2, least(polls, 10)))) end
where id in (
  select id
  from app.provider_calls as call
  where next_poll_at <= app.now()
    and account_id in (
      select account.id
      from app.provider_accounts as account
      join app.provider_keys as key on key.account_id = account.id
      where key.fingerprint = any ($4)
        and coalesce(account.looks_paused_until, app.now()) <= app.now())
    and not exists (
      select
      from app.outbox
      where job = 'provider_call.collect'
        and dedupe_key = call.id::text)
    and state = 'abandoned'
  order by next_poll_at
  limit $5
  for update skip locked
)
returning id, generation_id, provider, account_id, key_fingerprint, endpoint, state, polls, unknown_polls, request_id, status_url, cancel_url, (select name from app.provider_accounts where id = account_id) as account;

-- from core.generations.pipeline.queries
update app.provider_calls set broken_files = broken_files + 1 where id = $1 returning broken_files;

-- from core.generations.pipeline.queries
update app.provider_calls set next_poll_at = app.now() where id = $1 and state in ('accepted', 'abandoned') and (request_id is not null or status_url is not null);

-- from core.generations.pipeline.queries
update app.provider_calls set unknown_polls = 0 where id = $1;

-- from core.generations.pipeline.queries
update app.provider_calls set unknown_polls = unknown_polls + 1 where id = $1 returning unknown_polls;

-- from core.generations.pipeline.receive
select app.receive_provider_webhook($1, $2, $3);

-- from core.generations.providers.accounts
select app.cool_down($1, $2);

-- from core.generations.providers.accounts
select app.drop_probe($1, $2);

-- from core.generations.providers.accounts
select app.end_probe($1);

-- from core.generations.providers.accounts
select app.hold_keys($1);

-- from core.generations.providers.accounts
select app.pause_looks($1, $2);

-- from core.generations.providers.accounts
select app.refuse_key($1) as name;

-- from core.generations.providers.accounts
select app.sync_provider_keys($1, $2);

-- from core.generations.providers.accounts
select name, failures from app.open_breaker($1, $2, $3, $4);

-- from core.generations.providers.listing
select account.id, account.provider, account.name, account.slots, account.breaker_state,
  account.breaker_reason, account.breaker_until, account.breaker_failures, account.cooldown_until,
  account.looks_paused_until,
  (
    select count(*)
    from app.provider_calls as call
    where call.account_id = account.id
      and call.state in ('submitting', 'accepted', 'ambiguous')
  ) as slots_held,
  (
    select coalesce(jsonb_agg(jsonb_build_object(
      'name', key.name, 'fingerprint', key.fingerprint, 'last_used_at', key.last_used_at,
      'held_at', key.held_at, 'refused_at', key.refused_at, 'probe_at', key.probe_at)
      order by key.name), '[]')
    from app.provider_keys as key
    where key.account_id = account.id
  ) as keys
from app.provider_accounts as account
where $1::uuid is null or account.id = $1
order by account.provider, account.name;

-- from core.generations.providers.listing
select app.close_breaker($1, $2);

-- from core.generations.queries
select created_at, expires_at, bought_as
from app.late_images
where generation_id = $1;

-- from core.generations.queries
select entry.id as entry_id, entry.kind, entry.debit, entry.credit, entry.amount, entry.lot_id,
  lot.source, entry.lot_expires_at, entry.created_at,
  case when entry.kind = 'refund' and taken.lot_expires_at < entry.lot_expires_at
    then taken.lot_expires_at end as extended_from,
  entry.kind = 'confirm' and entry.amount < reservation.amount as is_share
from app.ledger_transfers as entry
join app.reservations as reservation on reservation.id = entry.reservation_id
left join app.credit_lots as lot on lot.id = entry.lot_id
left join app.ledger_transfers as taken
  on taken.reservation_id = entry.reservation_id
  and taken.lot_id = entry.lot_id
  and taken.kind = 'reserve'
where entry.subject_id = $1
order by entry.id;

-- from core.generations.queries
select generation.id, generation.operation, operation.title, generation.lane, generation.state,
  generation.cost_credits, generation.retry_of, generation.cancel_requested_at,
  generation.ending, generation.created_at, generation.finished_at,
  jsonb_array_length(operation.steps) as steps
from app.generations as generation
join app.operations as operation
  on operation.slug = generation.operation and operation.version = generation.operation_version
where generation.id = $1;

-- from core.generations.queries
select id as call_id, step, attempt, endpoint, state, is_resubmission, accepted_at, ended_at,
  http_status, error_type, billable_units, created_at
from app.provider_calls
where generation_id = $1
order by attempt;

-- from core.generations.queries
select payload ->> 'state' as state, version, created_at as at
from app.events
where subject_id = $1
  and type like 'generation.%'
order by version;

-- from core.generations.service
select app.buy_late_image($1, $2);

-- from core.generations.service
select app.cancel_generation($1) as change;

-- from core.generations.service
select app.start_generation($1, $2, $3, $4, $5::smallint, $6) as answer;

-- from core.generations.service
select expires_at, bought_as, (result ->> 'width')::integer as width, (result ->> 'height')::integer as height from app.late_images where generation_id = $1 and (expires_at > app.now() or bought_as is not null);

-- from core.generations.service
select id, operation, operation_version, lane, state, version, cost_credits, upload_id, params, priority, retry_of, created_at, wait_until, coalesce(deadline_at, app.latest_end(generations)) as deadline_at, finished_at, cancel_requested_at, result, ending, charged_credits, case when finished_at is null then app.cancel_share(generations) else 0 end as cancel_credits, case when finished_at is null then app.generation_outlook(id) end as outlook
from app.generations
where user_id = (select app.current_user_id())
  and ($1::text is null or state = $1)
  and ($2::text is null or operation = $2)
  and ($3::uuid is null or upload_id = $3)
  and ($4::timestamptz is null or (created_at, id) < ($4, $5))
order by created_at desc, id desc
limit $6;

-- from core.generations.service
select id, operation, operation_version, lane, state, version, cost_credits, upload_id, params, priority, retry_of, created_at, wait_until, coalesce(deadline_at, app.latest_end(generations)) as deadline_at, finished_at, cancel_requested_at, result, ending, charged_credits, case when finished_at is null then app.cancel_share(generations) else 0 end as cancel_credits, case when finished_at is null then app.generation_outlook(id) end as outlook from app.generations where id = $1;

-- from core.generations.service
select payload ->> 'state' as state, version, created_at as at from app.events where subject_id = $1 and type like 'generation.%' order by version;

-- from core.health
select app.schema_version() as version;

-- from core.idempotency
delete from app.idempotency_keys where expires_at <= app.now();

-- from core.idempotency
select app.idempotency_begin($1, $2, $3) as stored;

-- from core.idempotency
select app.idempotency_store($1, $2, $3, $4, $5);

-- from core.identity.acting
select app.require_admin();

-- from core.identity.acting
select app.require_person();

-- from core.identity.factors
select app.confirm_admin_factor($1, $2);

-- from core.identity.factors
select app.report_factor() as is_new;

-- from core.identity.factors
select factor_id, admin_id, email, friendly_name, factor_type, enrolled_at, confirmed_at, confirmed_by from app.list_admin_factors();

-- from core.metrics
delete from app.metric_counters where seen_at < app.now() - interval '90 days';

-- from core.metrics
insert into app.metric_counters (name, labels, value)
values ($1, $2::jsonb, $3)
on conflict (name, labels) do update
set value = app.metric_counters.value + excluded.value, seen_at = app.now();

-- from core.payments.dispute_queries
select app.acknowledge_dispute($1, $2);

-- from core.payments.dispute_queries
select app.acknowledge_fraud_warning($1, $2);

-- from core.payments.dispute_queries
select app.record_fraud_warning($1, $2, $3, $4, $5, $6);

-- from core.payments.dispute_queries
select dispute_id, order_id, disputes.user_id,
  coalesce(disputes.provider_payment_id, orders.provider_payment_id) as provider_payment_id,
  amount, orders.currency, disputes.state, reason, is_answer_due, evidence_due_at,
  acknowledged_at, disputes.created_at, disputes.updated_at
from app.payment_disputes as disputes
join app.orders on orders.id = disputes.order_id

        where (not $1 or (disputes.state in ('inquiry', 'open')
            and is_answer_due and acknowledged_at is null))
          and ($2::uuid is null or disputes.user_id = $2)
          and ($3::uuid is null or order_id = $3)
          and ($4::timestamptz is null
            or (disputes.created_at, dispute_id) < ($4, $5))
        order by disputes.created_at desc, dispute_id desc
        limit $6;

-- from core.payments.dispute_queries
select dispute_id, order_id, disputes.user_id,
  coalesce(disputes.provider_payment_id, orders.provider_payment_id) as provider_payment_id,
  amount, orders.currency, disputes.state, reason, is_answer_due, evidence_due_at,
  acknowledged_at, disputes.created_at, disputes.updated_at
from app.payment_disputes as disputes
join app.orders on orders.id = disputes.order_id
 where dispute_id = $1;

-- from core.payments.dispute_queries
select warning_id, order_id, warnings.user_id,
  coalesce(warnings.provider_payment_id, orders.provider_payment_id) as provider_payment_id,
  fraud_type, is_actionable,
  is_actionable and acknowledged_at is null
    and orders.state in ('paid', 'partially_refunded', 'review') as is_open,
  greatest(0, coalesce(orders.amount_total, 0) - orders.amount_returned) as amount_left,
  orders.currency, acknowledged_at, warnings.created_at, warnings.updated_at
from app.fraud_warnings as warnings
join app.orders on orders.id = warnings.order_id
 where warning_id = $1;

-- from core.payments.dispute_queries
with warnings as (
select warning_id, order_id, warnings.user_id,
  coalesce(warnings.provider_payment_id, orders.provider_payment_id) as provider_payment_id,
  fraud_type, is_actionable,
  is_actionable and acknowledged_at is null
    and orders.state in ('paid', 'partially_refunded', 'review') as is_open,
  greatest(0, coalesce(orders.amount_total, 0) - orders.amount_returned) as amount_left,
  orders.currency, acknowledged_at, warnings.created_at, warnings.updated_at
from app.fraud_warnings as warnings
join app.orders on orders.id = warnings.order_id
) select * from warnings
        where (not $1 or is_open)
          and ($2::uuid is null or user_id = $2)
          and ($3::uuid is null or order_id = $3)
          and ($4::timestamptz is null
            or (created_at, warning_id) < ($4, $5))
        order by created_at desc, warning_id desc
        limit $6;

-- from core.payments.noun
select * from app.payments_figures();

-- from core.payments.noun
select * from app.prove_orders();

-- from core.payments.noun
select * from app.prove_purchases();

-- from core.payments.noun
select app.payments_health() as health;

-- from core.payments.queries
select app.clock_now() as now;

-- from core.payments.queries
select app.continue_order($1);

-- from core.payments.queries
select app.end_attempt($1, $2, $3);

-- from core.payments.queries
select app.note_provider_key($1);

-- from core.payments.queries
select app.record_customer($1, $2, $3) as customer_id;

-- from core.payments.queries
select app.record_payment_day($1, $2, $3, $4, $5, $6);

-- from core.payments.queries
select app.request_order_sync($1);

-- from core.payments.queries
select app.retry_order($1, $2);

-- from core.payments.queries
select app.start_order($1, $2) as id;

-- from core.payments.queries
select app.sync_order($1, $2, $3, $4) as result;

-- from core.payments.queries
select app.take_unsettled_orders($1, $2, $3) as id;

-- from core.payments.queries
select customer_id from app.payment_customers where user_id = $1;

-- from core.payments.queries
select day from app.payment_days where differing <> '[]' and day >= $1;

-- from core.payments.queries
select id from app.orders where provider_payment_id = $1 union all select order_id from app.order_payments where provider_payment_id = $1 limit 1;

-- from core.payments.queries
select id, session_id from app.orders where user_id = $1 and state = 'open' and session_id is not null order by id;

-- from core.payments.queries
select order_id from app.order_sessions where session_id = $1;

-- from core.payments.queries
select orders.id, orders.user_id, orders.pack_slug, orders.pack_version, packs.lookup_key,
  orders.credits, orders.unit_amount, orders.currency, orders.state, orders.version,
  orders.attempt, orders.attempted_at, orders.expires_at, orders.amount_returned,
  orders.credits_reversed, orders.created_at, orders.session_id, orders.session_url,
  orders.price_id, orders.customer_id, orders.provider_payment_id,
  orders.amount_total, orders.failure_reason, orders.review_reason, orders.invoice_id,
  orders.invoice_url, orders.invoice_pdf_url, orders.receipt_url, orders.paid_at,
  orders.payment_method, orders.review_decision, orders.review_session_id,
  packs.is_active as is_on_sale
 from app.next_attempt($1, $2) as orders 
join app.packs on packs.slug = orders.pack_slug and packs.version = orders.pack_version;

-- from core.payments.queries
select orders.id, orders.user_id, orders.pack_slug, orders.pack_version, packs.lookup_key,
  orders.credits, orders.unit_amount, orders.currency, orders.state, orders.version,
  orders.attempt, orders.attempted_at, orders.expires_at, orders.amount_returned,
  orders.credits_reversed, orders.created_at, orders.session_id, orders.session_url,
  orders.price_id, orders.customer_id, orders.provider_payment_id,
  orders.amount_total, orders.failure_reason, orders.review_reason, orders.invoice_id,
  orders.invoice_url, orders.invoice_pdf_url, orders.receipt_url, orders.paid_at,
  orders.payment_method, orders.review_decision, orders.review_session_id,
  packs.is_active as is_on_sale
 from app.orders 
join app.packs on packs.slug = orders.pack_slug and packs.version = orders.pack_version

        where ($1::text[] = '{}' or orders.state = any ($1))
          and ($2::uuid is null or orders.user_id = $2)
          and (not $3 or orders.review_reason is not null)
          and (not $4 or orders.invoice_id is not null)
          and ($5::timestamptz is null
            or (orders.created_at, orders.id) < ($5, $6))
        order by orders.created_at desc, orders.id desc
        limit $7;

-- from core.payments.queries
select orders.id, orders.user_id, orders.pack_slug, orders.pack_version, packs.lookup_key,
  orders.credits, orders.unit_amount, orders.currency, orders.state, orders.version,
  orders.attempt, orders.attempted_at, orders.expires_at, orders.amount_returned,
  orders.credits_reversed, orders.created_at, orders.session_id, orders.session_url,
  orders.price_id, orders.customer_id, orders.provider_payment_id,
  orders.amount_total, orders.failure_reason, orders.review_reason, orders.invoice_id,
  orders.invoice_url, orders.invoice_pdf_url, orders.receipt_url, orders.paid_at,
  orders.payment_method, orders.review_decision, orders.review_session_id,
  packs.is_active as is_on_sale
 from app.orders 
join app.packs on packs.slug = orders.pack_slug and packs.version = orders.pack_version
 where orders.id = $1;

-- from core.payments.queries
select orders.id, orders.user_id, orders.pack_slug, orders.pack_version, packs.lookup_key,
  orders.credits, orders.unit_amount, orders.currency, orders.state, orders.version,
  orders.attempt, orders.attempted_at, orders.expires_at, orders.amount_returned,
  orders.credits_reversed, orders.created_at, orders.session_id, orders.session_url,
  orders.price_id, orders.customer_id, orders.provider_payment_id,
  orders.amount_total, orders.failure_reason, orders.review_reason, orders.invoice_id,
  orders.invoice_url, orders.invoice_pdf_url, orders.receipt_url, orders.paid_at,
  orders.payment_method, orders.review_decision, orders.review_session_id,
  packs.is_active as is_on_sale
 from app.record_session($1, $2, $3, $4, $5, $6) as orders 
join app.packs on packs.slug = orders.pack_slug and packs.version = orders.pack_version;

-- from core.payments.queries
select orders.id, orders.user_id, orders.pack_slug, orders.pack_version, packs.lookup_key,
  orders.credits, orders.unit_amount, orders.currency, orders.state, orders.version,
  orders.attempt, orders.attempted_at, orders.expires_at, orders.amount_returned,
  orders.credits_reversed, orders.created_at, orders.session_id, orders.session_url,
  orders.price_id, orders.customer_id, orders.provider_payment_id,
  orders.amount_total, orders.failure_reason, orders.review_reason, orders.invoice_id,
  orders.invoice_url, orders.invoice_pdf_url, orders.receipt_url, orders.paid_at,
  orders.payment_method, orders.review_decision, orders.review_session_id,
  packs.is_active as is_on_sale
 from app.renew_attempt($1, $2) as orders 
join app.packs on packs.slug = orders.pack_slug and packs.version = orders.pack_version;

-- from core.payments.queries
select provider_payment_id, id as order_id from app.orders where provider_payment_id = any ($1) union all select provider_payment_id, order_id from app.order_payments where provider_payment_id = any ($1);

-- from core.payments.queries
select session_id, amount_total from app.orders where paid_at is not null and attempted_at >= $1 and attempted_at < $2;

-- from core.payments.queries
select session_id, amount_total from app.orders where session_id = any ($1)   and (paid_at is not null     or failure_reason in ('refunded_in_review', 'rejected_in_review')) union all select session_id, amount_total from app.order_payments where session_id = any ($1);

-- from core.payments.queries
select session_id, attempt, price_id from app.order_sessions where order_id = $1 order by attempt, created_at;

-- from core.payments.queries
select slug, version, title, credits, unit_amount, currency, lookup_key from app.packs where is_active order by credits;

-- from core.payments.return_queries
select app.admin_return($1, $2, $3, $4, $5, $6) as id;

-- from core.payments.return_queries
select app.next_return_attempt($1, $2);

-- from core.payments.return_queries
select app.note_return($1, $2, $3);

-- from core.payments.return_queries
select app.refuse_return($1, $2);

-- from core.payments.return_queries
select app.request_return($1, $2, $3, $4, $5) as id;

-- from core.payments.return_queries
select app.review_order($1, $2, $3, $4, $5);

-- from core.payments.return_queries
select id from app.payment_returns where state = 'requested' and created_at < app.now() - make_interval(secs => $1) and not exists (select from app.outbox where job = 'return.create'   and dedupe_key = payment_returns.id::text) order by created_at limit $2;

-- from core.payments.return_queries
select id, order_id, user_id, amount, currency, origin, reason, state, attempt,
  provider_payment_id, provider_return_id, failure_reason, created_at, updated_at
from app.payment_returns

        where ($1::uuid is null or order_id = $1)
          and ($2::timestamptz is null
            or (created_at, id) < ($2, $3))
        order by created_at desc, id desc
        limit $4;

-- from core.payments.return_queries
select id, order_id, user_id, amount, currency, origin, reason, state, attempt,
  provider_payment_id, provider_return_id, failure_reason, created_at, updated_at
from app.payment_returns
 where id = $1;

-- from core.payments.return_queries
select provider_payment_id, session_id, amount_total, coalesce((
            select sum(amount)
            from app.payment_returns
            where order_id = payments.order_id
              and provider_payment_id = payments.provider_payment_id
              and state in ('requested', 'pending', 'requires_action', 'succeeded')), 0)::bigint
            as amount_returned
        from app.order_payments as payments
        where order_id = $1
        order by created_at, provider_payment_id;

-- from core.payments.return_queries
select provider_return_id as id,   case when state in ('failed', 'canceled', 'refused') then 0 else amount end as amount from app.payment_returns where provider_return_id = any ($1) union all select dispute_id, amount from app.payment_disputes where dispute_id = any ($1);

-- from core.payments.stripe.events
select app.finish_stripe_event($1, $2, $3);

-- from core.payments.stripe.events
select app.prune_stripe_events($1) as pruned;

-- from core.payments.stripe.events
select app.receive_stripe_event($1, $2, $3, $4, $5, $6) as is_new;

-- from core.payments.stripe.events
select app.replay_stripe_events($1, $2, $3, $4, $5) as id;

-- from core.payments.stripe.events
select id from app.stripe_events where handled_at is null and received_at < app.now() - make_interval(secs => $1) and not exists (select from app.outbox where job = 'stripe_event.handle'   and dedupe_key = stripe_events.id) order by received_at limit $2;

-- from core.payments.stripe.events
select id, type, object_id, created, source, received_at, handled_at, outcome, order_id, replays

        from app.stripe_events
        where ($1::text[] = '{}' or type = any ($1))
          and (not $2 or handled_at is null)
          and ($3::uuid is null or order_id = $3)
          and ($4::timestamptz is null
            or (received_at, id) < ($4, $5))
        order by received_at desc, id desc
        limit $6;

-- from core.payments.stripe.events
select id, type, object_id, created, source, received_at, handled_at, outcome, order_id, replays
, payload from app.stripe_events where id = $1;

-- from core.people.events
select id, type, payload, created_at
from app.events
where user_id = $1
  and type = any ($2)
  and ($3::timestamptz is null or (created_at, id) < ($3, $4))
order by created_at desc, id desc
limit $5;

-- from core.people.keys
select app.verified_address() as address;

-- from core.people.keys
select set_config('app.caller', $1, true);

-- from core.people.noun
select granted, limit_per_day from app.people_health();

-- from core.people.noun
select name, labels, value from app.people_figures();

-- from core.people.service
select app.open_account() as opening;

-- from core.people.service
select person.created_at, account.reserved, account.debt, withheld.reason as withheld, account.available - coalesce((   select sum(lot.remaining) from app.credit_lots as lot   where lot.user_id = account.user_id and lot.remaining > 0     and lot.expires_at <= app.now() ), 0)::bigint as available from app.credit_accounts as account join app.users as person on person.id = account.user_id left join app.signup_withheld as withheld on withheld.user_id = account.user_id where account.user_id = app.current_user_id();

-- from core.tasks.dead_letters
select app.purge_dead_letters($1) as purged;

-- from core.tasks.dead_letters
select app.replay_dead_letter($1) as task_id;

-- from core.tasks.dead_letters
select id, task_id, job, args, claims, failures, error, request_id, created_at, died_at,
  replayed_at, replayed_as
from app.dead_letters
where ($1::timestamptz is null or (died_at, id) < ($1, $2))
  and ($3::text is null or job = $3)
  and ($4 is false or replayed_at is null)
order by died_at desc, id desc
limit $5;

-- from core.tasks.heartbeats
delete from app.worker_heartbeats where seen_at < app.now() - interval '1 hour';

-- from core.tasks.heartbeats
delete from app.worker_heartbeats where worker_id = $1;

-- from core.tasks.heartbeats
insert into app.worker_heartbeats (worker_id, host, pid, in_flight)
values ($1, $2, $3, $4)
on conflict (worker_id) do update
set seen_at = app.now(), in_flight = excluded.in_flight;

-- from core.tasks.noun
select * from app.tasks_figures();

-- from core.tasks.noun
select app.tasks_health() as health;

-- from core.tasks.outbox
select app.dead_letter_task($1, $2) as letter_id;

-- from core.tasks.outbox
select app.end_task($1) as ended;

-- from core.tasks.outbox
select app.issue_scheduled_tasks() as issued;

-- from core.tasks.outbox
update app.outbox
set due_at = app.now() + least(
    make_interval(secs => $1),
    greatest(make_interval(secs => $2), app.now() - created_at))
where id in (
  select id
  from app.outbox
  where due_at <= app.now()
    and (lease_until is null or lease_until < app.now())
  order by due_at
  limit $3
  for update skip locked
)
returning id, job, claims;

-- from core.tasks.outbox
update app.outbox
set lease_token = $1,
  lease_until = app.now() + make_interval(secs => lease.seconds),
  due_at = app.now() + make_interval(secs => lease.seconds),
  claimed = wanted,
  claims = claims + 1
from (
  select coalesce(($2::jsonb ->> job)::double precision, $3) as seconds
  from app.outbox
  where id = $4
) as lease
where id = $4
  and (lease_until is null or lease_until < app.now())
returning id, job, args, claims, failures, request_id,
  extract(epoch from app.now() - created_at)::double precision as age_seconds;

-- from core.tasks.outbox
update app.outbox
set lease_token = null,
  lease_until = null,
  claims = 0,
  due_at = case when wanted = claimed
    then app.now() + make_interval(secs => $1) else app.now() end,
  failures = case when $2::text is null then failures else
    jsonb_set(failures, array[$2::text],
      to_jsonb(coalesce((failures ->> $2::text)::integer, 0) + 1)) end,
  last_error = left(coalesce($3, last_error), 2000)
where lease_token = $4;

-- from core.tasks.outbox
update app.outbox
set lease_until = app.now() + make_interval(secs => $1),
  due_at = app.now() + make_interval(secs => $1)
where lease_token = $2;

-- from core.tasks.outbox
update app.outbox set due_at = app.now() where lease_until is null and due_at > app.now() and failures = '{}';

-- from core.uploads.queries
select app.complete_upload($1, $2, $3, $4, $5);

-- from core.uploads.queries
select app.delete_upload($1);

-- from core.uploads.queries
select app.discard_upload($1) as gone;

-- from core.uploads.queries
select app.expire_uploads($1, $2) as expired;

-- from core.uploads.queries
select app.mend_upload_lines() as added;

-- from core.uploads.queries
select app.prepare_upload($1, $2, $3, $4, $5, $6);

-- from core.uploads.queries
select app.settle_upload($1, $2, $3, $4) as state;

-- from core.uploads.queries
select app.take_upload($1) as id;

-- from core.uploads.queries
select exists (select from app.lines where line = $1) as waits;

-- from core.uploads.queries
select id from app.uploads where task_id = $1 and state = 'stored';

-- from core.uploads.queries
select id, user_id, state, storage_key, file_name, source_format, size_bytes, normal_key,
  thumbnail_key, content_type, width, height, pixel_sha256, notes, problem, created_at, settled_at
from app.uploads
 where id = $1;
