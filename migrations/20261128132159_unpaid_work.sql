-- What a person's unpaid work at the provider may be worth within a day.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

create table app.unpaid_terms (
  id boolean primary key default true,
  credits_per_day bigint not null,
  buyer_credits_per_day bigint not null,
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
insert into app.unpaid_terms (credits_per_day, buyer_credits_per_day)
values (10, 100);
-- functions

set local lock_timeout = '5s';
set local statement_timeout = '60s';

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.require_paid_work(p_user_id uuid)
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
  select coalesce(sum(credits), 0) into v_used from app.unpaid_work(p_user_id);
  if v_used = 0 then
    return;
  end if;
  select * into v_terms from app.unpaid_terms;
  select case when count(*) > 0 then v_terms.buyer_credits_per_day
      else v_terms.credits_per_day end,
    coalesce(sum(credits - credits_reversed) filter (
      where paid_at > app.now() - interval '1 day'), 0)
  into v_limit, v_paid
  from app.orders
  where user_id = p_user_id
    and paid_at is not null
    and amount_total > 0
    and credits_reversed < credits
    and state not in ('disputed', 'charged_back');
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

create or replace function app.start_generation(
  p_id uuid, p_operation text, p_upload_id uuid, p_params jsonb,
  p_priority smallint default 0, p_retry_of uuid default null
)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_operation app.operations;
  v_upload app.uploads;
  v_existing app.generations;
begin
  select *
  into v_operation
  from app.operations
  where slug = p_operation
    and is_active;
  if not found then
    raise exception 'no such operation' using errcode = 'JS404', detail = '{"kind": "operation"}';
  end if;
  if p_priority is null or p_priority not in (0, 1) then
    raise exception 'no such priority'
      using errcode = 'JS422', detail = '{"field": "priority", "reason": "out_of_range"}';
  end if;
  if app.params_fit(v_operation.params_schema, p_params) is not true then
    raise exception 'parameters out of bounds'
      using errcode = 'JS422', detail = '{"field": "params", "reason": "params_do_not_fit"}';
  end if;
  select *
  into v_upload
  from app.uploads
  where id = p_upload_id
    and user_id = v_user_id
  for key share;  -- it must not be deleted between here and the insert
  if not found then
    raise exception 'no such upload' using errcode = 'JS404', detail = '{"kind": "upload"}';
  end if;
  if v_upload.state <> 'ready' then
    raise exception 'upload is not ready'
      using errcode = 'JS409', detail = jsonb_build_object(
        'reason', 'upload_not_ready', 'state', v_upload.state)::text;
  end if;
  perform app.require_possible(v_operation, v_upload.width, v_upload.height, p_params);
  if p_retry_of is not null and not exists (
    select from app.generations where id = p_retry_of and user_id = v_user_id
  ) then
    raise exception 'no such generation'
      using errcode = 'JS404', detail = '{"kind": "generation"}';
  end if;
  perform app.lock_account(v_user_id);
  select *
  into v_existing
  from app.generations
  where id = p_id;
  if found then
    if v_existing.user_id <> v_user_id or v_existing.operation <> p_operation
      or v_existing.upload_id <> p_upload_id or v_existing.params <> p_params
    then
      raise exception 'generation id taken'
        using errcode = 'JS409', detail = '{"reason": "id_taken"}';
    end if;
    return app.start_answer(v_existing);
  end if;
  perform app.require_paid_work(v_user_id);
  perform app.reserve(v_user_id, v_operation.cost_credits, 'run', p_id);
  insert into app.generations (
    id, user_id, upload_id, operation, operation_version, lane, cost_credits, params, priority,
    retry_of, input_key, wait_until, request_id
  )
  values (
    p_id, v_user_id, p_upload_id, v_operation.slug, v_operation.version, v_operation.lane,
    v_operation.cost_credits, p_params, p_priority, p_retry_of, v_upload.normal_key,
    app.now() + make_interval(secs => case p_priority when 0
      then v_operation.wait_seconds else v_operation.batch_wait_seconds end),
    nullif(current_setting('app.request_id', true), ''))
  returning * into v_existing;
  perform app.add_task(
    'generation.dispatch', '{}', p_id::text);
  return app.start_answer(v_existing);
end $$;

create or replace function app.unpaid_figures()
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

create or replace function app.unpaid_work(p_user_id uuid)
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

comment on function app.require_paid_work is
$$Refuses another run while a person's unpaid work within a day is worth as much as the terms allow,
more for who bought credits. What was charged, and what was bought within the day, adds to it. So it goes
on when the day has passed, when something is paid, or when a run that is on its way succeeds.
Expects the lock of the account. Errors: JS429 {reason, limit, used, retry_after_seconds}.$$;

comment on function app.start_generation is
$$The one way for users to start: identity from the claims, price and times from the catalogue.
It waits in its line from now on. Adds the ticket, a task whose dedupe key is the generation's id,
which nobody else adds, so it may come after the line. Returns app.start_answer.
Locks: upload (shared), account, lots, line. Errors: JS401, JS402, JS404 {kind: operation|upload},
JS409 {reason: upload_not_ready, state}, JS422 {field: priority|params},
JS422 (app.require_possible: it could not succeed), JS429 (app.require_paid_work).
Replay: the same id and terms find themselves done.$$;

comment on function app.unpaid_figures is
$$What the provider billed for runs that ended within an hour, paid by somebody or not, for /metrics as
(name, labels, value). Cost is by the catalogue's price of a unit.$$;

comment on function app.unpaid_work is
$$The runs of a person within a day that the provider billed and nobody paid, for the person's own
reasons; what each was worth.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

create or replace function app.is_billed(p_call app.provider_calls)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(p_call.billable_units > 0, p_call.state = 'succeeded')
$$;

comment on function app.is_billed is
$$Whether the provider bills a call: by its own figure, or, where it gave none, because it delivered.$$;

grant execute on function app.is_billed(app.provider_calls) to jewelshot_ledger;

grant execute on function app.unpaid_figures() to jewelshot_api;
