-- Work that the provider bills us for and nobody pays: what a person may cause of it within a day.
-- A run counts when it ended without being charged, for a reason that lies with its photo, its words
-- or its owner's cancelling, and the provider billed a call of it. It counts by its price in credits, which a
-- person can follow and which goes with what it costs us. Our faults and the provider's never count.
-- after: base, people, orders, catalog, generations, pipeline

-- How much of it, as data: changed by a migration or an admin's SQL, never by a caller.
create table app.unpaid_terms (
  id boolean primary key default true,
  credits_per_day bigint not null,  -- of who bought nothing: as much as free credits are worth
  buyer_credits_per_day bigint not null,  -- also of those to whom an admin gave credits
  constraint unpaid_terms_one_row check (id),
  constraint unpaid_terms_positive check (credits_per_day > 0 and buyer_credits_per_day > 0)
);

create index generations_unpaid on app.generations (user_id, finished_at)
  where state in ('failed', 'cancelled');

alter table app.unpaid_terms enable row level security;
alter table app.unpaid_terms force row level security;

revoke all on app.unpaid_terms from public, anon, authenticated, service_role;

grant select on app.unpaid_terms to jewelshot_ledger, jewelshot_admin;

create policy unpaid_terms_reader on app.unpaid_terms for select to jewelshot_ledger using (true);
create policy unpaid_terms_admin on app.unpaid_terms for select to jewelshot_admin
  using ((select app.is_admin()));

create function app.is_billed(p_call app.provider_calls)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(p_call.billable_units > 0, p_call.state = 'succeeded')
$$;
comment on function app.is_billed is
$$Whether the provider bills a call: by its own figure, or, where it gave none, because it delivered.$$;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.unpaid_work(p_user_id uuid)
  returns table (finished_at timestamptz, credits bigint)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select generation.finished_at, generation.cost_credits
  from app.generations as generation
  where generation.user_id = p_user_id
    and generation.finished_at > app.now() - interval '1 day'
    and generation.state in ('failed', 'cancelled')
    and generation.charged_credits = 0
    and generation.ending in ('cancelled', 'content_refused', 'input_refused', 'photo_too_small',
      'photo_too_large', 'photo_file_too_large', 'photo_format', 'photo_unreadable',
      'face_not_found', 'params_refused', 'no_image', 'output_flagged', 'output_blank',
      'output_aspect_changed', 'output_not_enlarged', 'output_nothing_found',
      'output_background_not_found')
    and exists (
      select
      from app.provider_calls as call
      where call.generation_id = generation.id
        and app.is_billed(call)
    )
$$;
comment on function app.unpaid_work is
$$The runs of a person within a day that the provider billed and nobody paid, for the person's own
reasons; what each was worth.$$;

create function app.require_paid_work(p_user_id uuid)
  returns void
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_used bigint;
  v_terms app.unpaid_terms;
  v_limit bigint;
  v_paid bigint;
  v_free_at timestamptz;
begin
  -- Of most people nothing failed today: one look into an index, and no call.
  if not exists (
    select
    from app.generations
    where user_id = p_user_id
      and finished_at > app.now() - interval '1 day'
      and state in ('failed', 'cancelled')
  ) then
    return;
  end if;
  select coalesce(sum(credits), 0) into v_used from app.unpaid_work(p_user_id);
  if v_used = 0 then
    return;
  end if;
  select * into v_terms from app.unpaid_terms;
  select case when count(*) > 0 then v_terms.buyer_credits_per_day
      else v_terms.credits_per_day end,
    coalesce(sum(orders.credits - orders.credits_reversed) filter (
      where orders.paid_at > app.now() - interval '1 day'), 0)
  into v_limit, v_paid
  from app.credit_lots as lot
  left join app.orders on lot.idempotency_key = 'order:' || orders.id
  where lot.user_id = p_user_id
    and lot.source in ('purchase', 'adjustment')
    and (orders.id is null or (
      orders.amount_total > 0
      and orders.credits_reversed < orders.credits
      and orders.state not in ('disputed', 'charged_back')));
  select v_paid + coalesce(sum(charged_credits), 0)
  into v_paid
  from app.generations
  where user_id = p_user_id
    and created_at > app.now() - interval '4 days'
    and finished_at > app.now() - interval '1 day';
  if v_used < v_limit + v_paid then
    return;
  end if;
  select min(at) + interval '1 day'
  into v_free_at
  from (
    select finished_at as at, sum(credits) over (order by finished_at) as until_then
    from app.unpaid_work(p_user_id)
  ) as work
  where v_used - until_then < v_limit + v_paid;
  raise exception 'too much unpaid work'
    using errcode = 'JS429', detail = jsonb_build_object(
      'reason', 'unpaid_work', 'limit', v_limit, 'used', v_used,
      'retry_after_seconds', ceil(extract(epoch from v_free_at - app.now())))::text;
end $$;
comment on function app.require_paid_work is
$$Refuses another run while a person's unpaid work within a day is worth as much as the terms allow,
more for who bought credits or was given some by an admin. What was charged, and what was bought within the day, adds to it. So it goes
on when the day has passed, when something is paid, or when a run that is on its way succeeds.
Expects the lock of the account. Errors: JS429 {reason, limit, used, retry_after_seconds}.$$;

create function app.unpaid_figures()
  returns table (name text, labels jsonb, value double precision)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  with billed as (
    select generation.charged_credits > 0 as is_paid,
      coalesce(call.billable_units, 1)
        * coalesce((operation.steps -> call.step ->> 'unit_price_usd')::numeric, 0) as cost_usd
    from app.generations as generation
    join app.provider_calls as call on call.generation_id = generation.id
    join app.operations as operation
      on operation.slug = generation.operation
      and operation.version = generation.operation_version
    where generation.finished_at > app.now() - interval '1 hour'
      and app.is_billed(call)
  ), summed as (
    select known.label, count(billed.is_paid) as calls, coalesce(sum(billed.cost_usd), 0) as cost_usd
    from (values ('yes', true), ('no', false)) as known (label, is_paid)
    left join billed on billed.is_paid = known.is_paid
    group by known.label
  )
  select 'jewelshot_provider_calls_billed_last_hour', jsonb_build_object('paid', label),
    calls::double precision
  from summed
  union all
  select 'jewelshot_provider_cost_usd_last_hour', jsonb_build_object('paid', label),
    cost_usd::double precision
  from summed
$$;
comment on function app.unpaid_figures is
$$What the provider billed for runs that ended within an hour, paid by somebody or not, for /metrics as
(name, labels, value). Cost is by the catalogue's price of a unit.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function app.is_billed(app.provider_calls) to jewelshot_ledger;
grant execute on function app.unpaid_figures() to jewelshot_api;
