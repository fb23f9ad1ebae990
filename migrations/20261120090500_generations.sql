-- A generation is one paid run of one operation and delivers one image. A provider call is one
-- POST to fal. Provider accounts and keys say who may be asked.

create table app.provider_accounts (
  id uuid primary key default gen_random_uuid(),
  name text not null,
  slots integer not null,
  cooldown_until timestamptz,
  breaker_state text not null default 'closed',
  breaker_until timestamptz,
  breaker_reason text,
  breaker_failures integer not null default 0,
  created_at timestamptz not null default now(),
  constraint provider_accounts_name unique (name),
  constraint provider_accounts_slots_positive check (slots > 0),
  constraint provider_accounts_breaker_state
    check (breaker_state in ('closed', 'open', 'half_open'))
);

create table app.provider_keys (
  fingerprint text primary key,  -- of the secret; the secret itself is only in the environment
  account_id uuid not null references app.provider_accounts (id) on delete restrict,
  name text not null,
  last_used_at timestamptz,
  created_at timestamptz not null default now()
);

create index provider_keys_account_id on app.provider_keys (account_id);

create table app.generations (
  id uuid primary key,
  user_id uuid not null references app.users (id) on delete restrict,
  upload_id uuid not null references app.uploads (id) on delete restrict,
  operation text not null,
  operation_version integer not null,
  lane text not null,
  cost_credits bigint not null,
  params jsonb not null,
  priority smallint not null default 0,
  retry_of uuid references app.generations (id) on delete restrict,
  state text not null default 'queued',
  version bigint not null default 1,
  step integer not null default 0,
  attempts integer not null default 0,
  resubmissions integer not null default 0,
  current_call_id uuid,
  input_key text,
  available_at timestamptz not null default now(),
  give_up_at timestamptz not null,
  deadline_at timestamptz not null,
  cancel_requested_at timestamptz,
  gave_up_at timestamptz,
  result jsonb,
  problem jsonb,
  request_id text,
  created_at timestamptz not null default now(),
  finished_at timestamptz,
  foreign key (operation, operation_version)
    references app.operations (slug, version) on delete restrict,
  constraint generations_state check (state in (
    'queued', 'submitting', 'running', 'collecting', 'uncertain',
    'succeeded', 'failed', 'cancelled')),
  constraint generations_lane check (lane in ('locked', 'reimagined')),
  constraint generations_cost_positive check (cost_credits > 0),
  constraint generations_finished check (
    (state in ('succeeded', 'failed', 'cancelled')) = (finished_at is not null)),
  constraint generations_image check ((state = 'succeeded') = (result is not null)),
  constraint generations_problem check (state <> 'failed' or problem is not null)
);

create index generations_user on app.generations (user_id, created_at desc, id desc);
create index generations_upload_id on app.generations (upload_id);
create index generations_retry_of on app.generations (retry_of);
create index generations_operation on app.generations (operation, operation_version);
-- The fair queue: a loose scan finds each waiting user's next generation with one probe.
create index generations_queue on app.generations (priority, user_id, available_at)
  where state = 'queued';
create index generations_open on app.generations (give_up_at)
  where state in ('queued', 'submitting', 'running', 'collecting', 'uncertain');
create index generations_cancelled_in_queue on app.generations (id)
  where state = 'queued' and cancel_requested_at is not null;
create index generations_finished on app.generations (finished_at) where finished_at is not null;

create table app.generation_events (
  generation_id uuid not null references app.generations (id) on delete restrict,
  version bigint not null,
  state text not null,
  at timestamptz not null default clock_timestamp(),
  primary key (generation_id, version)
);

create table app.user_turns (
  user_id uuid primary key references app.users (id) on delete restrict,
  last_served_at timestamptz not null
);

create table app.provider_calls (
  id uuid primary key,
  generation_id uuid not null references app.generations (id) on delete restrict,
  user_id uuid not null references app.users (id) on delete restrict,
  step integer not null,
  attempt integer not null,
  account_id uuid not null references app.provider_accounts (id) on delete restrict,
  key_fingerprint text not null references app.provider_keys (fingerprint) on delete restrict,
  endpoint text not null,
  token_sha256 bytea not null,
  state text not null default 'submitting',
  is_resubmission boolean not null default false,  -- sent although an ambiguous call came before
  request_id text,
  status_url text,
  response_url text,
  cancel_url text,
  lease_until timestamptz not null,
  grace_until timestamptz,
  accepted_at timestamptz,
  webhook_at timestamptz,
  next_poll_at timestamptz,
  polls integer not null default 0,
  ended_at timestamptz,
  http_status integer,
  error_type text,
  error_detail text,
  billable_units numeric,
  created_at timestamptz not null default clock_timestamp(),
  constraint provider_calls_state check (state in (
    'submitting', 'accepted', 'ambiguous',
    'refused', 'succeeded', 'failed', 'cancelled', 'lost', 'abandoned')),
  constraint provider_calls_ended check (
    (state in ('submitting', 'accepted', 'ambiguous')) = (ended_at is null))
);

create index provider_calls_generation_id on app.provider_calls (generation_id);
create index provider_calls_user_id on app.provider_calls (user_id);
create index provider_calls_key on app.provider_calls (key_fingerprint);
-- A slot is held by a call that may be running at the provider.
create index provider_calls_slots on app.provider_calls (account_id)
  where state in ('submitting', 'accepted', 'ambiguous');
create index provider_calls_account on app.provider_calls (account_id, ended_at);
create index provider_calls_poll on app.provider_calls (next_poll_at)
  where next_poll_at is not null;
create index provider_calls_lease on app.provider_calls (lease_until) where state = 'submitting';
create index provider_calls_grace on app.provider_calls (grace_until) where state = 'ambiguous';

-- An image that came after its generation had been refunded: kept seven days, offered for sale.
create table app.late_images (
  generation_id uuid primary key references app.generations (id) on delete restrict,
  user_id uuid not null references app.users (id) on delete restrict,
  call_id uuid not null references app.provider_calls (id) on delete restrict,
  result jsonb not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null default now() + interval '7 days',
  bought_as uuid references app.generations (id) on delete restrict
);

create index late_images_user_id on app.late_images (user_id);
create index late_images_call_id on app.late_images (call_id);
create index late_images_bought_as on app.late_images (bought_as);
create index late_images_expires_at on app.late_images (expires_at) where bought_as is null;

alter table app.provider_accounts enable row level security;
alter table app.provider_accounts force row level security;
alter table app.provider_keys enable row level security;
alter table app.provider_keys force row level security;
alter table app.generations enable row level security;
alter table app.generations force row level security;
alter table app.generation_events enable row level security;
alter table app.generation_events force row level security;
alter table app.user_turns enable row level security;
alter table app.user_turns force row level security;
alter table app.provider_calls enable row level security;
alter table app.provider_calls force row level security;
alter table app.late_images enable row level security;
alter table app.late_images force row level security;

revoke all on app.provider_accounts, app.provider_keys, app.generations, app.generation_events,
  app.user_turns, app.provider_calls, app.late_images
  from public, anon, authenticated, service_role;

grant select, insert, update on app.provider_accounts, app.provider_keys, app.generations,
  app.provider_calls, app.user_turns, app.late_images to jewelshot_ledger;
grant select, insert on app.generation_events to jewelshot_ledger;

grant select on app.generations, app.generation_events, app.late_images to authenticated;
-- A user sees what was asked of the provider and how it ended, never a URL, key or token of ours.
grant select (id, generation_id, user_id, step, attempt, endpoint, state, is_resubmission,
    accepted_at, ended_at, http_status, error_type, billable_units, created_at)
  on app.provider_calls to authenticated;

grant select on app.provider_accounts, app.provider_keys, app.generations, app.generation_events,
  app.user_turns, app.provider_calls, app.late_images to jewelshot_worker, jewelshot_admin;
grant update (cooldown_until, breaker_state, breaker_until, breaker_reason, breaker_failures)
  on app.provider_accounts to jewelshot_worker;
grant update (next_poll_at, polls) on app.provider_calls to jewelshot_worker;
grant delete on app.late_images to jewelshot_worker;

create policy provider_accounts_writer on app.provider_accounts to jewelshot_ledger
  using (true) with check (true);
create policy provider_accounts_worker on app.provider_accounts to jewelshot_worker
  using (true) with check (true);
create policy provider_accounts_admin on app.provider_accounts for select to jewelshot_admin
  using ((select app.is_admin()));

create policy provider_keys_writer on app.provider_keys to jewelshot_ledger
  using (true) with check (true);
create policy provider_keys_worker on app.provider_keys for select to jewelshot_worker using (true);
create policy provider_keys_admin on app.provider_keys for select to jewelshot_admin
  using ((select app.is_admin()));

create policy generations_writer on app.generations to jewelshot_ledger
  using (true) with check (true);
create policy generations_own on app.generations for select to authenticated
  using (user_id = (select app.current_user_id()));
create policy generations_worker on app.generations for select to jewelshot_worker using (true);
create policy generations_admin on app.generations for select to jewelshot_admin
  using ((select app.is_admin()));

create policy generation_events_writer on app.generation_events to jewelshot_ledger
  using (true) with check (true);
create policy generation_events_own on app.generation_events for select to authenticated
  using (exists (
    select
    from app.generations as generation
    where generation.id = generation_id
      and generation.user_id = (select app.current_user_id())
  ));
create policy generation_events_worker on app.generation_events for select to jewelshot_worker
  using (true);
create policy generation_events_admin on app.generation_events for select to jewelshot_admin
  using ((select app.is_admin()));

create policy user_turns_writer on app.user_turns to jewelshot_ledger
  using (true) with check (true);
create policy user_turns_worker on app.user_turns for select to jewelshot_worker using (true);
create policy user_turns_admin on app.user_turns for select to jewelshot_admin
  using ((select app.is_admin()));

create policy provider_calls_writer on app.provider_calls to jewelshot_ledger
  using (true) with check (true);
create policy provider_calls_own on app.provider_calls for select to authenticated
  using (user_id = (select app.current_user_id()));
create policy provider_calls_worker on app.provider_calls to jewelshot_worker
  using (true) with check (true);
create policy provider_calls_admin on app.provider_calls for select to jewelshot_admin
  using ((select app.is_admin()));

create policy late_images_writer on app.late_images to jewelshot_ledger
  using (true) with check (true);
create policy late_images_own on app.late_images for select to authenticated
  using (user_id = (select app.current_user_id()));
create policy late_images_worker on app.late_images to jewelshot_worker using (true);
create policy late_images_admin on app.late_images for select to jewelshot_admin
  using ((select app.is_admin()));

-- The one place that knows which state may follow which. Each change raises the version and
-- leaves an event, in the transaction of the change.
create function app.guard_generation_state()
  returns trigger
  language plpgsql
  set search_path = ''
as $$
begin
  if new.state <> old.state and not (new.state = any (case old.state
    when 'queued' then array['submitting', 'running', 'collecting', 'failed', 'cancelled']
    when 'submitting' then
      array['running', 'queued', 'uncertain', 'collecting', 'failed', 'cancelled']
    when 'running' then array['collecting', 'uncertain', 'queued', 'failed', 'cancelled']
    when 'collecting' then
      array['succeeded', 'submitting', 'queued', 'running', 'failed', 'cancelled']
    when 'uncertain' then
      array['running', 'collecting', 'queued', 'succeeded', 'failed', 'cancelled']
    else array[]::text[] end))
  then
    raise exception 'generation cannot go from % to %', old.state, new.state
      using errcode = 'JS409', detail = jsonb_build_object(
        'reason', 'state', 'state', old.state, 'wanted', new.state)::text;
  end if;
  if new.state <> old.state or new.cancel_requested_at is distinct from old.cancel_requested_at
  then
    new.version := old.version + 1;
  end if;
  return new;
end $$;

create function app.record_generation_event()
  returns trigger
  language plpgsql
  set search_path = ''
as $$
begin
  insert into app.generation_events (generation_id, version, state)
  values (new.id, new.version, new.state);
  return null;
end $$;

create trigger generations_guard
  before update of state, cancel_requested_at on app.generations
  for each row execute function app.guard_generation_state();
create trigger generations_started
  after insert on app.generations
  for each row execute function app.record_generation_event();
create trigger generations_changed
  after update of state on app.generations
  for each row when (new.state <> old.state) execute function app.record_generation_event();

-- What a generation is now, for the change feed.
create function app.generation_change(p_generation app.generations)
  returns jsonb
  language sql
  immutable
  set search_path = ''
as $$
  select jsonb_build_object(
    'generation_id', p_generation.id,
    'user_id', p_generation.user_id,
    'state', p_generation.state,
    'version', p_generation.version)
$$;

-- The terms under which a generation was taken.
create function app.start_answer(p_generation app.generations, p_created boolean)
  returns jsonb
  language sql
  immutable
  set search_path = ''
as $$
  select jsonb_build_object(
    'created', p_created,
    'version', p_generation.version,
    'operation_version', p_generation.operation_version,
    'lane', p_generation.lane,
    'cost_credits', p_generation.cost_credits,
    'created_at', p_generation.created_at,
    'deadline_at', p_generation.deadline_at)
$$;

-- The one door for users: identity from the claims, price and deadline from the catalogue.
-- The ticket's outbox row has the generation's own id. Returns app.start_answer.
-- Locks: upload (shared), account, lots. Errors: JS401, JS402, JS404 {kind: operation|upload},
-- JS409 {reason: upload_not_ready, state}. Replay: the same id and terms find themselves done.
create function app.start_generation(
  p_id uuid, p_operation text, p_upload_id uuid, p_params jsonb,
  p_priority smallint default 0, p_retry_of uuid default null
)
  returns jsonb
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_operation app.operations;
  v_upload app.uploads;
  v_existing app.generations;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  select *
  into v_operation
  from app.operations
  where slug = p_operation
    and is_active;
  if not found then
    raise exception 'no such operation' using errcode = 'JS404', detail = '{"kind": "operation"}';
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
    return app.start_answer(v_existing, false);
  end if;
  perform app.reserve(v_user_id, v_operation.cost_credits, 'run', p_id);
  insert into app.generations (
    id, user_id, upload_id, operation, operation_version, lane, cost_credits, params, priority,
    retry_of, input_key, give_up_at, deadline_at, request_id
  )
  values (
    p_id, v_user_id, p_upload_id, v_operation.slug, v_operation.version, v_operation.lane,
    v_operation.cost_credits, p_params, p_priority, p_retry_of, v_upload.normal_key,
    now() + make_interval(secs => v_operation.deadline_seconds - v_operation.uncertain_seconds),
    now() + make_interval(secs => v_operation.deadline_seconds),
    nullif(current_setting('app.request_id', true), ''))
  returning * into v_existing;
  perform app.add_task(
    'generation.dispatch', '{}', case when p_priority = 0 then 'interactive' else 'default' end,
    null, 2, p_id);
  return app.start_answer(v_existing, true);
end $$;

-- Ends a provider call with what is known of it; an abandoned call may still learn its truth.
create function app.end_call(p_call_id uuid, p_call jsonb)
  returns void
  language sql
  security definer
  set search_path = ''
as $$
  update app.provider_calls
  set state = p_call ->> 'state',
    ended_at = clock_timestamp(),
    next_poll_at = case
      when p_call ->> 'state' = 'abandoned' and status_url is not null then next_poll_at end,
    http_status = coalesce((p_call ->> 'http_status')::integer, http_status),
    error_type = coalesce(p_call ->> 'error_type', error_type),
    error_detail = coalesce(left(p_call ->> 'error_detail', 2000), error_detail),
    billable_units = coalesce((p_call ->> 'billable_units')::numeric, billable_units)
  where id = p_call_id
    and state in ('submitting', 'accepted', 'ambiguous', 'abandoned')
$$;

-- The end of the subject and the end of its money, as one statement to the database.
-- p_outcome: succeeded | failed | cancelled. p_facts: {call_id, call: {state, http_status, ...},
-- result: {...} when succeeded, problem: {...} otherwise}. Returns the change, with `late` true
-- when the generation had ended before: then no money moves, and an image that comes after a
-- refund is kept as a late image. Null when a call failed that the generation does not wait for:
-- only the call ends. Locks: account, reservation, lots, generation, call, task.
-- Errors: JS404, JS430 (lease lost). Replay: a lost lease, or `late`.
create function app.finish_generation(
  p_id uuid, p_lease_token uuid, p_outcome text, p_facts jsonb
)
  returns jsonb
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  v_generation app.generations;
  v_call_id uuid := (p_facts ->> 'call_id')::uuid;
begin
  select *
  into v_generation
  from app.generations
  where id = p_id;
  if not found then
    raise exception 'no such generation'
      using errcode = 'JS404', detail = '{"kind": "generation"}';
  end if;
  perform app.lock_account(v_generation.user_id);
  select *
  into v_generation
  from app.generations
  where id = p_id
  for no key update;
  perform app.complete_task(p_lease_token);
  if v_call_id is not null then
    perform app.end_call(v_call_id, p_facts -> 'call');
  end if;
  if v_generation.finished_at is not null then
    if p_outcome = 'succeeded' and v_generation.state <> 'succeeded' then
      insert into app.late_images (generation_id, user_id, call_id, result)
      values (p_id, v_generation.user_id, v_call_id, p_facts -> 'result')
      on conflict do nothing;
    end if;
    return app.generation_change(v_generation) || '{"late": true}';
  end if;
  if p_outcome <> 'succeeded' and v_call_id <> v_generation.current_call_id then
    return null;
  end if;
  -- A rival that was submitted after an ambiguous answer is not needed any more.
  perform app.add_task(
    'provider_call.cancel', jsonb_build_object('call_id', id), 'default', id::text, 0)
  from app.provider_calls
  where generation_id = p_id
    and state = 'accepted'
    and id is distinct from v_call_id;
  if p_outcome = 'succeeded' then
    perform app.confirm(v_generation.user_id, 'run', p_id);
  else
    perform app.refund(v_generation.user_id, 'run', p_id);
  end if;
  update app.generations
  set state = p_outcome,
    finished_at = clock_timestamp(),
    result = case when p_outcome = 'succeeded' then p_facts -> 'result' end,
    problem = case when p_outcome <> 'succeeded' then p_facts -> 'problem' end
  where id = p_id
  returning * into v_generation;
  return app.generation_change(v_generation) || '{"late": false}';
end $$;

grant create on schema app to jewelshot_ledger;
alter function app.start_generation(uuid, text, uuid, jsonb, smallint, uuid)
  owner to jewelshot_ledger;
alter function app.end_call(uuid, jsonb) owner to jewelshot_ledger;
alter function app.finish_generation(uuid, uuid, text, jsonb) owner to jewelshot_ledger;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.generation_change(app.generations), app.start_answer(app.generations, boolean)
  to jewelshot_ledger;
grant execute on function app.start_generation(uuid, text, uuid, jsonb, smallint, uuid)
  to authenticated;
grant execute on function app.finish_generation(uuid, uuid, text, jsonb) to jewelshot_worker;
