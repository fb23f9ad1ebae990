-- From the queue to the end: who is served next, what the provider answered, what the sweep
-- decides. A provider call is one POST to a provider.
-- Order of locks: account, generation, call, task (a task's row is waited for by whoever adds the
-- same one, so it comes last); who opens calls locks provider accounts and then takes lines and
-- generations by skip locked, so it waits for nobody who waits for it.
-- after: base, people, credits, tasks, lines, providers, generations

create table app.provider_calls (
  id uuid primary key,
  generation_id uuid not null references app.generations (id) on delete restrict,
  user_id uuid not null references app.users (id) on delete restrict,
  step integer not null,
  attempt integer not null,
  provider text not null default 'fal',
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
  created_at timestamptz not null default app.clock_now(),
  unknown_polls integer not null default 0,  -- in a row: one 404 is none
  broken_files integer not null default 0,  -- looks at an output that was missing or broken
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
-- Two lines: those that nobody waits for any more may be many, and delay nobody's.
create index provider_calls_refused on app.provider_calls (account_id, ended_at)
  where state = 'refused' and http_status = 403;
create index provider_calls_poll on app.provider_calls (next_poll_at)
  where next_poll_at is not null and state <> 'abandoned';
create index provider_calls_poll_abandoned on app.provider_calls (next_poll_at)
  where next_poll_at is not null and state = 'abandoned';
create index provider_calls_lease on app.provider_calls (lease_until) where state = 'submitting';
create index provider_calls_grace on app.provider_calls (grace_until) where state = 'ambiguous';

-- An image that came after its generation had been refunded: kept seven days, offered for sale.
create table app.late_images (
  generation_id uuid primary key references app.generations (id) on delete restrict,
  user_id uuid not null references app.users (id) on delete restrict,
  call_id uuid not null references app.provider_calls (id) on delete restrict,
  result jsonb not null,
  held_at timestamptz,  -- a legal hold: its files are erased by nobody
  created_at timestamptz not null default app.now(),
  expires_at timestamptz not null default app.now() + interval '7 days',
  bought_as uuid references app.generations (id) on delete restrict
);
create index late_images_user_id on app.late_images (user_id);
create index late_images_call_id on app.late_images (call_id);
create index late_images_bought_as on app.late_images (bought_as);
create index late_images_expires_at on app.late_images (expires_at) where bought_as is null;

alter table app.provider_calls enable row level security;
alter table app.provider_calls force row level security;
alter table app.late_images enable row level security;
alter table app.late_images force row level security;

revoke all on
  app.provider_calls, app.late_images
  from public, anon, authenticated, service_role;

grant select, insert, update on
  app.provider_calls, app.late_images
  to jewelshot_ledger;
grant select on app.late_images to jewelshot_user;
-- A user sees which calls the provider got and how they ended, never a URL, key or token of ours.
grant select (id, generation_id, user_id, step, attempt, endpoint, state, is_resubmission,
    accepted_at, ended_at, http_status, error_type, billable_units, created_at)
  on app.provider_calls to jewelshot_user;
grant select on
  app.provider_calls, app.late_images
  to jewelshot_worker, jewelshot_admin;
grant update (next_poll_at, polls, unknown_polls, broken_files)
  on app.provider_calls to jewelshot_worker;
grant delete on app.late_images to jewelshot_worker;

create policy provider_calls_writer on app.provider_calls to jewelshot_ledger
  using (true) with check (true);
create policy provider_calls_own on app.provider_calls for select to jewelshot_user
  using (user_id = (select app.current_user_id()));
create policy provider_calls_worker on app.provider_calls to jewelshot_worker
  using (true) with check (true);
create policy provider_calls_admin on app.provider_calls for select to jewelshot_admin
  using ((select app.is_admin()));
create policy late_images_writer on app.late_images to jewelshot_ledger
  using (true) with check (true);
create policy late_images_own on app.late_images for select to jewelshot_user
  using (user_id = (select app.current_user_id()));
create policy late_images_worker on app.late_images to jewelshot_worker using (true);
create policy late_images_admin on app.late_images for select to jewelshot_admin
  using ((select app.is_admin()));

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.end_call(p_call_id uuid, p_call jsonb)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.provider_calls
  set state = p_call ->> 'state',
    ended_at = app.clock_now(),
    next_poll_at = case
      when p_call ->> 'state' = 'abandoned' and status_url is not null then next_poll_at end,
    http_status = coalesce((p_call ->> 'http_status')::integer, http_status),
    error_type = coalesce(p_call ->> 'error_type', error_type),
    error_detail = coalesce(left(p_call ->> 'error_detail', 2000), error_detail),
    billable_units = coalesce((p_call ->> 'billable_units')::numeric, billable_units)
  where id = p_call_id
    and state in ('submitting', 'accepted', 'ambiguous', 'abandoned')
$$;
comment on function app.end_call is
$$Ends a provider call with what is known of it; an abandoned call may still learn its truth.$$;

create function app.call_intent(p_call_id uuid, p_token text)
  returns jsonb
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'call_id', call.id,
    'callback_token', p_token,
    'generation_id', generation.id,
    'user_id', generation.user_id,
    'version', generation.version,
    'step', call.step,
    'attempt', call.attempt,
    'provider', call.provider,
    'account_id', call.account_id,
    'account', account.name,
    'account_is_open', account.breaker_state = 'closed'
      and coalesce(account.cooldown_until, app.now()) <= app.now()
      and (select refused_at is null from app.provider_keys where fingerprint = call.key_fingerprint),
    'key_fingerprint', call.key_fingerprint,
    'operation', generation.operation,
    'steps', operation.steps,
    'params_schema', operation.params_schema,
    'presets', operation.presets,
    'params', generation.params,
    'input_key', generation.input_key,
    'seconds_left',
      extract(epoch from coalesce(
        generation.give_up_at - app.now(),
        make_interval(secs => operation.deadline_seconds - operation.uncertain_seconds)
      ))::double precision)
  from app.provider_calls as call
  join app.generations as generation on generation.id = call.generation_id
  join app.provider_accounts as account on account.id = call.account_id
  join app.operations as operation
    on operation.slug = generation.operation and operation.version = generation.operation_version
  where call.id = p_call_id
$$;
comment on function app.call_intent is
$$All that a worker needs to make one POST. `seconds_left` are those until the generation is given
up, which begin to run with its first call. The callback token leaves the database only here.$$;

create function app.open_call(
  p_generation_id uuid, p_account_id uuid, p_key_fingerprint text, p_lease_seconds double precision
)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_call_id uuid := gen_random_uuid();
  v_token text := replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '');
  v_generation app.generations;
begin
  update app.generations
  set state = 'submitting', current_call_id = v_call_id
  where id = p_generation_id
  returning * into v_generation;
  insert into app.provider_calls (
    id, generation_id, user_id, step, attempt, provider, account_id, key_fingerprint, endpoint,
    token_sha256, is_resubmission, lease_until
  )
  select v_call_id, v_generation.id, v_generation.user_id, v_generation.step,
    (select count(*) + 1 from app.provider_calls where generation_id = v_generation.id),
    (select provider from app.provider_accounts where id = p_account_id),
    p_account_id, p_key_fingerprint, operation.steps -> v_generation.step ->> 'endpoint',
    sha256(convert_to(v_token, 'utf8')),
    exists (
      select
      from app.provider_calls
      where generation_id = v_generation.id
        and step = v_generation.step
        and state = 'abandoned'),
    app.clock_now() + make_interval(secs => p_lease_seconds)
  from app.operations as operation
  where operation.slug = v_generation.operation
    and operation.version = v_generation.operation_version;
  return app.call_intent(v_call_id, v_token);
end $$;
comment on function app.open_call is
$$Writes the intent of one POST for a locked generation and returns it (app.call_intent).$$;

create function app.take_from_line(p_line text)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_sort = off
  set enable_seqscan = off
  set enable_bitmapscan = off
as $$
declare
  v_now timestamptz;
  v_user_id uuid;
  v_first_no bigint;
  v_id uuid;
  v_is_over boolean;
  v_next_at timestamptz;
  v_in_vain integer := 0;
begin
  -- Whoever has nothing that waits any more leaves the line at their turn: after an outage
  -- thousands. Who stays though nothing could be served (others have it locked) comes again at once.
  for v_turn in 1..500 loop
    exit when v_in_vain = 8;
    v_user_id := app.take_turn(p_line);
    exit when v_user_id is null;
    v_now := app.clock_now();
    select first_no
    into v_first_no
    from app.lines
    where line = p_line
      and key = v_user_id;
    select id, coalesce(give_up_at, wait_until) <= v_now
    into v_id, v_is_over
    from app.generations
    where line = p_line
      and user_id = v_user_id
      and line_no is null
      and available_at <= v_now
    order by available_at
    limit 1
    for no key update skip locked;
    if v_id is null then
      select id, coalesce(give_up_at, wait_until) <= v_now
      into v_id, v_is_over
      from app.generations
      where line = p_line
        and user_id = v_user_id
        and line_no >= v_first_no
      order by line_no, id
      limit 1
      for no key update skip locked;
    end if;
    if v_is_over then
      update app.generations
      set line = null
      where id = v_id;
    end if;
    -- What else waits, also what others have locked.
    select line_no
    into v_first_no
    from app.generations
    where line = p_line
      and user_id = v_user_id
      and line_no >= v_first_no
      and id is distinct from v_id
    order by line_no, id
    limit 1;
    if found then
      v_next_at := v_now;
    else
      select available_at
      into v_next_at
      from app.generations
      where line = p_line
        and user_id = v_user_id
        and line_no is null
        and id is distinct from v_id
      order by available_at
      limit 1;
    end if;
    perform app.end_turn(p_line, v_user_id, v_next_at, v_first_no);
    if v_id is not null and not v_is_over then
      return v_id;
    end if;
    if v_next_at <= v_now then
      v_in_vain := v_in_vain + 1;
    end if;
  end loop;
  return null;
end $$;
comment on function app.take_from_line is
$$The generation that is served next in a line, locked, and its owner at the end of the line: of the
person whose turn it is what has had a turn before and may be tried again, otherwise the lowest
number. Null when nobody may be served. What is out of time leaves the line and waits for the
sweep; people of whom nothing waits leave it, up to 500 at once, so that after an outage nobody waits
behind them. Otherwise the cost depends neither on how many people wait nor on what each has waiting.
Locks: the line's row, then the generation, both by skip locked.$$;

create function app.somebody_waits(p_fingerprints text[])
  returns boolean
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
as $$
  select exists (
    select
    from app.provider_keys as key
    join app.provider_accounts as account on account.id = key.account_id
    cross join unnest(array['begun', 'interactive', 'batch']) as kind
    cross join lateral (
      select
      from app.lines
      where line = kind || ':' || account.provider
        and serve_at <= app.now()
      limit 1
    ) as waiting
    where key.fingerprint = any (p_fingerprints))
$$;
comment on function app.somebody_waits is
$$Whether a ticket could serve anybody for whom one of these keys is. Cheap: asked each second by
every process.$$;

create function app.open_calls(
  p_fingerprints text[], p_limit integer, p_lease_seconds double precision
)
  returns setof jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_account record;
  v_account_ids uuid[];
  v_free integer;
  v_left integer := p_limit;
  v_key text;
  v_intent jsonb;
  v_kinds text[];
  v_kind text;
  v_generation_id uuid;
begin
  if not app.somebody_waits(p_fingerprints) then
    return;
  end if;
  select array_agg(locked.id)
  into v_account_ids
  from (
    select id
    from app.provider_accounts
    where id in (
      select account_id from app.provider_keys where fingerprint = any (p_fingerprints))
    order by id
    for no key update
  ) as locked;
  for v_account in
    select account.id, account.provider, account.breaker_state, account.tickets,
      account.slots - used.held as free
    from app.provider_accounts as account
    cross join lateral (
      select count(*)::integer as held
      from app.provider_calls as call
      where call.account_id = account.id
        and call.state in ('submitting', 'accepted', 'ambiguous')
    ) as used
    where account.id = any (v_account_ids)
      and used.held < account.slots
      and coalesce(account.cooldown_until, app.now()) <= app.now()
      and (account.breaker_state = 'closed' or account.breaker_until <= app.now())
      and exists (
        select
        from app.provider_keys as key
        where key.account_id = account.id
          and key.fingerprint = any (p_fingerprints)
          and (key.refused_at is null or key.probe_at <= app.now()))
    -- One that waits for its probe comes first: by chance alone it would stay open.
    order by account.breaker_state = 'closed', used.held::numeric / account.slots, account.id
  loop
    v_free := v_account.free;
    if v_account.breaker_state <> 'closed' then
      v_free := least(v_free, 1);
    end if;
    v_free := least(v_free, v_left);
    while v_free > 0 loop
      -- What has begun goes before what has not; of the rest every fourth is the batch line's.
      v_kinds := case when v_account.tickets % 4 = 3
        then array['begun', 'batch', 'interactive']
        else array['begun', 'interactive', 'batch'] end;
      if v_account.breaker_state <> 'closed' then
        v_generation_id := app.take_for_probe(
          v_account.id,
          array(select kind || ':' || v_account.provider from unnest(v_kinds) as kind));
      else
        foreach v_kind in array v_kinds loop
          v_generation_id := app.take_from_line(v_kind || ':' || v_account.provider);
          exit when v_generation_id is not null;
        end loop;
      end if;
      exit when v_generation_id is null;
      v_key := app.take_key(
        v_account.id, p_fingerprints, v_account.breaker_state <> 'closed');
      if v_key is null then  -- the last one was refused just now
        perform app.join_line(line, user_id, available_at, line_no, line_no)
        from app.generations
        where id = v_generation_id;
        exit;
      end if;
      if v_kind <> 'begun' then
        v_account.tickets := v_account.tickets + 1;
      end if;
      v_intent := app.open_call(v_generation_id, v_account.id, v_key, p_lease_seconds);
      if v_account.breaker_state <> 'closed' then
        perform app.begin_probe(
          v_account.id, (v_intent ->> 'call_id')::uuid, p_lease_seconds);
      end if;
      return next v_intent;
      v_free := v_free - 1;
      v_left := v_left - 1;
    end loop;
    update app.provider_accounts
    set tickets = v_account.tickets
    where id = v_account.id
      and tickets <> v_account.tickets;
    exit when v_left <= 0;
  end loop;
end $$;
comment on function app.open_calls is
$$Up to p_limit calls for the keys a process holds, as app.call_intent. No slot, no healthy account
or no usable key of one: none. An account whose breaker is open gets one probe when its pause is
over, before any other account is served.
Locks: the provider accounts of the keys by ascending id (two processes that served them in the
order of their load would wait for each other), then lines and generations by skip locked.
Replay: a call whose intent was lost is found by the sweep by its expired lease.$$;

create function app.record_running(p_generation_id uuid, p_call_id uuid)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_generation app.generations;
begin
  update app.generations
  set state = 'running',
    resubmissions = resubmissions - (state = 'queued')::integer,
    attempts = attempts - (state = 'queued')::integer
  where id = p_generation_id
    and current_call_id = p_call_id
    and state in ('submitting', 'uncertain', 'queued')
    and gave_up_at is null
    and exists (
      select
      from app.provider_calls
      where id = p_call_id
        and state in ('accepted', 'abandoned'))
  returning * into v_generation;
  return case when found then app.generation_change(v_generation) end;
end $$;
comment on function app.record_running is
$$A generation whose call is known to be at the provider. One that already waits to be submitted
once more does not have to be. Expects the lock of the generation. Returns the change or null.$$;

create function app.record_accepted(
  p_call_id uuid, p_request_id text, p_status_url text, p_response_url text, p_cancel_url text,
  p_poll_seconds double precision
)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_generation app.generations;
begin
  select generation.*
  into v_generation
  from app.provider_calls as call
  join app.generations as generation on generation.id = call.generation_id
  where call.id = p_call_id
  for no key update of generation;
  update app.provider_calls
  set request_id = coalesce(request_id, p_request_id),
    status_url = coalesce(status_url, p_status_url),
    response_url = coalesce(response_url, p_response_url),
    cancel_url = coalesce(cancel_url, p_cancel_url),
    accepted_at = coalesce(accepted_at, app.clock_now()),
    next_poll_at = case
      when state in ('submitting', 'accepted', 'ambiguous', 'abandoned') then
        coalesce(next_poll_at, app.now() + make_interval(secs => p_poll_seconds)) end,
    state = case when state in ('submitting', 'ambiguous') then 'accepted' else state end
  where id = p_call_id;
  perform app.end_probe(p_call_id);
  if v_generation.cancel_requested_at is not null or v_generation.gave_up_at is not null
    or v_generation.finished_at is not null
  then
    perform app.add_task(
      'provider_call.cancel', jsonb_build_object('call_id', p_call_id), p_call_id::text, 0);
  end if;
  return app.record_running(v_generation.id, p_call_id);
end $$;
comment on function app.record_accepted is
$$The provider took the call. Late answers fill only empty fields. Returns the change or null.
Locks: generation, call. Replay: the same facts change nothing.$$;

create function app.record_not_accepted(
  p_call_id uuid, p_call jsonb, p_delay_seconds double precision
)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_generation app.generations;
begin
  select generation.*
  into v_generation
  from app.provider_calls as call
  join app.generations as generation on generation.id = call.generation_id
  where call.id = p_call_id
  for no key update of generation;
  perform app.end_call(p_call_id, p_call);
  update app.generations
  set state = 'queued',
    available_at = app.now() + make_interval(secs => p_delay_seconds)
  where id = v_generation.id
    and current_call_id = p_call_id
    and state in ('submitting', 'uncertain')
  returning * into v_generation;
  return case when found then app.generation_change(v_generation) end;
end $$;
comment on function app.record_not_accepted is
$$Surely not accepted: the slot is free again and the generation waits for its turn. That is not an
attempt, and no time of the work: before its first accepted call it waits as long as it did before.
Locks: generation, call. Replay: an ended call changes nothing. Returns the change or null.$$;

create function app.record_ambiguous(
  p_call_id uuid, p_error text, p_grace_seconds double precision
)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_generation app.generations;
begin
  select generation.*
  into v_generation
  from app.provider_calls as call
  join app.generations as generation on generation.id = call.generation_id
  where call.id = p_call_id
  for no key update of generation;
  update app.provider_calls
  set state = 'ambiguous',
    error_type = coalesce(error_type, 'ambiguous_submit'),
    error_detail = coalesce(error_detail, left(p_error, 2000)),
    grace_until = app.clock_now() + make_interval(secs => p_grace_seconds)
  where id = p_call_id
    and state = 'submitting';
  if not found then
    return null;
  end if;
  perform app.drop_probe(p_call_id, 5);
  update app.generations
  set state = 'uncertain'
  where id = v_generation.id
    and current_call_id = p_call_id
    and state = 'submitting'
  returning * into v_generation;
  return case when found then app.generation_change(v_generation) end;
end $$;
comment on function app.record_ambiguous is
$$We cannot know whether the provider took the call: wait for its webhook, at most the grace.
Locks: generation, call. Replay: only a submitting call becomes ambiguous.$$;

create function app.receive_provider_webhook(p_call_id uuid, p_token text, p_request_id text)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_call app.provider_calls;
  v_was_lost boolean;
begin
  select *
  into v_call
  from app.provider_calls
  where id = p_call_id
    and token_sha256 = sha256(convert_to(p_token, 'utf8'));
  if not found then
    raise exception 'no such call' using errcode = 'JS404', detail = '{"kind": "provider_call"}';
  end if;
  perform
  from app.generations
  where id = v_call.generation_id
  for no key update;
  select state = 'lost'
  into v_was_lost
  from app.provider_calls
  where id = p_call_id;
  update app.provider_calls
  set webhook_at = coalesce(webhook_at, app.clock_now()),
    request_id = coalesce(request_id, p_request_id),
    accepted_at = coalesce(accepted_at, app.clock_now()),
    state = case
      when state in ('submitting', 'ambiguous') then 'accepted'
      when state = 'lost' then 'abandoned'
      else state end
  where id = p_call_id
  returning * into v_call;
  if v_call.state not in ('accepted', 'abandoned') then
    return null;
  end if;
  perform app.end_probe(p_call_id);
  if not v_was_lost then
    perform app.record_running(v_call.generation_id, p_call_id);
  end if;
  return app.add_task(
    'provider_call.collect', jsonb_build_object('call_id', p_call_id), p_call_id::text);
end $$;
comment on function app.receive_provider_webhook is
$$A verified webhook that a call ended: it may overtake the submit's answer, and the token names
the call. One that the provider did not know before is there after all. Makes sure that one collect task exists and returns its id, or null when
the call has ended. Locks: generation, call. Errors: JS404 for an unknown call or wrong token.$$;

create function app.ensure_collect(p_call_id uuid)
  returns uuid
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select app.add_task(
    'provider_call.collect', jsonb_build_object('call_id', p_call_id), p_call_id::text)
  from app.provider_calls
  where id = p_call_id
    and state in ('accepted', 'abandoned')
$$;
comment on function app.ensure_collect is
$$The poll loop found an end: the same one collect task. Returns its id, or null.$$;

create function app.begin_collect(p_call_id uuid, p_take_over boolean default false)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_call app.provider_calls;
  v_generation app.generations;
  v_operation app.operations;
  v_upload app.uploads;
  v_role text;
begin
  select *
  into v_call
  from app.provider_calls
  where id = p_call_id;
  if not found then
    raise exception 'no such call' using errcode = 'JS404', detail = '{"kind": "provider_call"}';
  end if;
  select *
  into v_generation
  from app.generations
  where id = v_call.generation_id
  for no key update;
  -- Again, now that no other transaction can end it.
  select *
  into v_call
  from app.provider_calls
  where id = p_call_id;
  select *
  into v_operation
  from app.operations
  where slug = v_generation.operation
    and version = v_generation.operation_version;
  select *
  into v_upload
  from app.uploads
  where id = v_generation.upload_id;
  v_role := case
    when v_generation.finished_at is not null or v_generation.step <> v_call.step
      or v_call.state not in ('accepted', 'abandoned') then 'late'
    when v_generation.current_call_id = p_call_id or p_take_over then 'current'
    else 'superseded' end;
  if v_role = 'current' then
    update app.generations
    set state = 'collecting', current_call_id = p_call_id
    where id = v_generation.id
      and (state <> 'collecting' or current_call_id <> p_call_id)
    returning * into v_generation;
    if not found then
      select *
      into v_generation
      from app.generations
      where id = v_call.generation_id;
    end if;
  end if;
  return app.generation_change(v_generation) || jsonb_build_object(
    'role', v_role,
    'attempts', v_generation.attempts,
    'is_given_up', coalesce(v_generation.give_up_at <= app.now(), false),
    'cancel_requested', v_generation.cancel_requested_at is not null,
    'operation', v_generation.operation,
    'output_rule', v_operation.output_rule,
    'steps', v_operation.steps,
    'params', v_generation.params,
    'source_key', v_upload.normal_key,
    'source_width', v_upload.width,
    'source_height', v_upload.height,
    'call_state', v_call.state,
    'call_id', v_call.id,
    'call_seconds', extract(epoch from app.clock_now() - v_call.created_at)::double precision,
    'abandoned_seconds', case when v_call.state = 'abandoned' then
      extract(epoch from app.clock_now() - v_call.ended_at)::double precision end,
    'step', v_call.step,
    'endpoint', v_call.endpoint,
    'provider', v_call.provider,
    'account_id', v_call.account_id,
    'account', (select name from app.provider_accounts where id = v_call.account_id),
    'key_fingerprint', v_call.key_fingerprint,
    'request_id', v_call.request_id,
    'response_url', v_call.response_url);
end $$;
comment on function app.begin_collect is
$$Marks that a call's result is being fetched. Returns what the collector needs and its `role`:
`current`: the generation waits for this call and is now collecting; `superseded`: it is open but
was submitted again, so nothing changes unless p_take_over (this call has an image in hand);
`late`: it has ended or is at another step, or the call has. Locks: generation. Errors: JS404.
Replay: collecting stays collecting.$$;

create function app.close_call(p_call_id uuid, p_lease_token uuid, p_call jsonb)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform app.end_call(p_call_id, p_call);
  perform app.complete_task(p_lease_token);
end $$;
comment on function app.close_call is
$$The end of a call that decides nothing: its generation ended, or waits for another call.
Errors: JS430. Replay: an ended call changes nothing.$$;

create function app.resume_running(
  p_call_id uuid, p_lease_token uuid, p_poll_seconds double precision
)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_generation app.generations;
begin
  update app.generations
  set state = 'running'
  where current_call_id = p_call_id
    and id = (select generation_id from app.provider_calls where id = p_call_id)
    and state = 'collecting'
  returning * into v_generation;
  update app.provider_calls
  set next_poll_at = case
    when state = 'accepted' or ended_at > app.now() - interval '6 hours' then
      coalesce(next_poll_at, app.now() + make_interval(secs => p_poll_seconds)) end
  where id = p_call_id
    and state in ('accepted', 'abandoned');
  perform app.complete_task(p_lease_token);
  return case when v_generation.id is not null then app.generation_change(v_generation) end;
end $$;
comment on function app.resume_running is
$$The result is not there after all: back to running, the task is done.
Errors: JS430. Returns the change or null.$$;

create function app.requeue_generation(
  p_call_id uuid, p_lease_token uuid, p_call jsonb, p_delay_seconds double precision,
  p_attempts_max integer
)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_generation app.generations;
begin
  select generation.*
  into v_generation
  from app.provider_calls as call
  join app.generations as generation on generation.id = call.generation_id
  where call.id = p_call_id
  for no key update of generation;
  if v_generation.finished_at is not null
    or v_generation.current_call_id is distinct from p_call_id
    or v_generation.cancel_requested_at is not null
    or v_generation.attempts + 1 >= p_attempts_max
    or app.now() + make_interval(secs => p_delay_seconds) >= v_generation.give_up_at
  then
    return null;
  end if;
  perform app.end_call(p_call_id, p_call);
  perform app.complete_task(p_lease_token);
  update app.generations
  set state = 'queued',
    attempts = attempts + 1,
    available_at = app.now() + make_interval(secs => p_delay_seconds)
  where id = v_generation.id
  returning * into v_generation;
  return app.generation_change(v_generation);
end $$;
comment on function app.requeue_generation is
$$Surely failed: ends the call, and queues the generation for another attempt when it has one
left and the time for it. Returns the change, or null when the caller has to finish it instead:
then nothing was written. Locks: generation, call. Errors: JS430 {lease lost}.$$;

create function app.advance_generation(
  p_call_id uuid, p_lease_token uuid, p_call jsonb, p_input_key text,
  p_lease_seconds double precision
)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_generation app.generations;
  v_call app.provider_calls;
begin
  select *
  into v_call
  from app.provider_calls
  where id = p_call_id;
  select *
  into v_generation
  from app.generations
  where id = v_call.generation_id
  for no key update;
  perform app.end_call(p_call_id, p_call);
  perform app.complete_task(p_lease_token);
  if v_generation.finished_at is not null or v_generation.step <> v_call.step then
    return null;
  end if;
  update app.generations as generation
  set step = generation.step + 1,
    attempts = 0,
    input_key = p_input_key,
    available_at = app.now(),
    -- Cancelled between two steps: nothing runs, and the sweep ends what waits cancelled.
    -- A step of another provider waits for a slot there.
    state = case
      when generation.cancel_requested_at is null
        and operation.steps -> (generation.step + 1) ->> 'provider' = v_call.provider
        then generation.state
      else 'queued' end
  from app.operations as operation
  where generation.id = v_generation.id
    and operation.slug = generation.operation
    and operation.version = generation.operation_version
  returning generation.* into v_generation;
  if v_generation.state = 'queued' then
    return null;
  end if;
  return app.open_call(
    v_generation.id, v_call.account_id, v_call.key_fingerprint, p_lease_seconds);
end $$;
comment on function app.advance_generation is
$$A step is done and another follows: at the same provider the slot goes over to its call at once.
Returns the next call's intent, or null when there is none to make.
Locks: generation, call. Errors: JS430, JS409 when it ended.$$;

create function app.sweep_calls(
  p_grace_seconds double precision, p_attempts_max integer, p_limit integer
)
  returns setof jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_call record;
  v_generation app.generations;
  v_change jsonb;
begin
  for v_call in
    select id
    from app.provider_calls
    where state = 'submitting'
      and lease_until < app.now()
    order by lease_until
    limit p_limit
  loop
    v_change := app.record_ambiguous(
      v_call.id, 'The worker stopped before the answer was recorded.', p_grace_seconds);
    if v_change is not null then
      return next v_change;
    end if;
  end loop;
  for v_call in
    select id, generation_id
    from app.provider_calls
    where state = 'ambiguous'
      and grace_until < app.now()
    order by grace_until
    limit p_limit
  loop
    select *
    into v_generation
    from app.generations
    where id = v_call.generation_id
    for no key update skip locked;
    if not found then
      continue;
    end if;
    perform
    from app.provider_calls
    where id = v_call.id
      and state = 'ambiguous'
    for no key update;
    if not found then
      continue;
    end if;
    perform app.end_call(v_call.id, '{"state": "abandoned"}');
    update app.generations
    set state = 'queued',
      resubmissions = resubmissions + (cancel_requested_at is null)::integer,
      attempts = attempts + (cancel_requested_at is null)::integer,
      available_at = app.now()
    where id = v_call.generation_id
      and current_call_id = v_call.id
      and state = 'uncertain'
      and (
        (attempts + 1 < p_attempts_max and give_up_at > app.now())
        -- Nothing more is sent, so nothing more can tell: sweep_deadlines ends it cancelled.
        or cancel_requested_at is not null)
    returning * into v_generation;
    if found then
      return next app.generation_change(v_generation);
    end if;
  end loop;
  -- A superseded or cancelled call that never ends at the provider: nothing waits for it any more.
  for v_call in
    select call.id
    from app.provider_calls as call
    join app.generations as generation on generation.id = call.generation_id
    where call.state = 'accepted'
      and generation.finished_at is not null
      and coalesce(generation.deadline_at, generation.finished_at) < app.now()
    limit p_limit
  loop
    perform app.end_call(v_call.id, '{"state": "abandoned", "error_type": "deadline"}');
  end loop;
end $$;
comment on function app.sweep_calls is
$$Calls whose worker vanished in the middle of the POST become ambiguous; ambiguous calls past
their grace free the slot, and their generation is submitted once more, counted, if it may, or
ends cancelled, if that was asked for.
A call that outlives its generation's deadline frees its slot; we go on listening.
Locks: generation, call. Returns the changes.$$;

create function app.sweep_deadlines(p_limit integer)
  returns setof jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_ids uuid[];
  v_id uuid;
  v_generation app.generations;
begin
  -- All of them before the first ends: an account that this transaction has changed meanwhile
  -- would be passed over like one that another has locked.
  select array_agg(locked.id)
  into v_ids
  from (
    select due.id
    from (
      (
        select id, user_id
        from app.generations
        where state in ('queued', 'submitting', 'running', 'collecting', 'uncertain')
          and coalesce(give_up_at, wait_until) <= app.now()
          and (state = 'queued' or (gave_up_at is null and give_up_at is not null)
            or deadline_at <= app.now())
        order by coalesce(give_up_at, wait_until)
        limit p_limit * 8
      )
      union
      (
        select id, user_id
        from app.generations
        where state = 'queued'
          and cancel_requested_at is not null
        limit p_limit * 8
      )
    ) as due
    join app.credit_accounts as account on account.user_id = due.user_id
    join app.generations as generation
      on generation.id = due.id and generation.finished_at is null
    -- Few people a round, so that there are others left for another process.
    order by due.user_id
    limit p_limit
    for no key update of account, generation skip locked
  ) as locked;
  foreach v_id in array coalesce(v_ids, '{}') loop
    select *
    into v_generation
    from app.generations
    where id = v_id
      and finished_at is null
    for no key update skip locked;
    if not found then
      continue;
    end if;
    -- Again, now that it is locked: its turn may have come meanwhile.
    if v_generation.deadline_at <= app.now()
      or (v_generation.state = 'queued' and (
        v_generation.cancel_requested_at is not null
        or coalesce(v_generation.give_up_at, v_generation.wait_until) <= app.now()))
    then
      begin
        return next app.finish_generation(
          v_generation.id, null,
          case when v_generation.cancel_requested_at is null then 'failed' else 'cancelled' end,
          jsonb_build_object(
            'call_id',
            case when v_generation.state <> 'queued' then v_generation.current_call_id end,
            'call', jsonb_build_object('state', 'abandoned', 'error_type', 'deadline'),
            'ending', case
              when v_generation.cancel_requested_at is not null then 'cancelled'
              when v_generation.wait_until is not null then 'waited_too_long'
              else 'deadline_exceeded' end));
      exception when others then
        raise warning 'generation % cannot be ended: %', v_generation.id, sqlerrm;
      end;
      continue;
    end if;
    if v_generation.gave_up_at is not null
      or coalesce(v_generation.give_up_at > app.now(), true)
    then
      continue;
    end if;
    update app.generations
    set gave_up_at = app.now(),
      state = case when state in ('submitting', 'running') then 'uncertain' else state end
    where id = v_generation.id
    returning * into v_generation;
    perform app.add_task(
      'provider_call.cancel', jsonb_build_object('call_id', v_generation.current_call_id),
      v_generation.current_call_id::text, 0);
    return next app.generation_change(v_generation);
  end loop;
end $$;
comment on function app.sweep_deadlines is
$$Generations out of time, by the clock that runs. Waiting: it was never started, so it ends free.
Working, and not at the provider: failed and refunded. Working, and possibly at the provider:
cancelled there and uncertain, listening; at the deadline refunded, listening on for a late image. A
cancelled generation that fell back into the line ends here too.
One that cannot be ended, because its money does not fit, holds up no other: the proofs name it.
Processes share them: whose account is locked, by another sweep or by a purchase, is passed over,
and as many again are looked through. The caller asks again until nothing changes.
Locks: accounts and generations by skip locked, then reservation, lots. Returns the changes.$$;

create function app.refresh_outlook(p_every_seconds double precision)
  returns boolean
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if not pg_try_advisory_xact_lock(x'6f75746c6f6f6b'::bigint) or exists (
    select
    from app.line_figures
    where refreshed_at > app.now() - make_interval(secs => p_every_seconds)
  ) then
    return false;
  end if;
  insert into app.line_figures (line, keys, seconds_per_turn, refreshed_at)
  select waiting.line, waiting.keys,
    -- Of four turns that do not go on with what has begun, one is the batch line's.
    pace.call_seconds / nullif(pace.slots, 0) * case
      when waiting.kind = 'interactive' and waiting.batch_keys > 0 then 4 / 3.0
      when waiting.kind = 'batch' and waiting.interactive_keys > 0 then 4
      else 1 end,
    app.now()
  from (
    select account.provider,
      sum(account.slots) filter (
        where account.breaker_state = 'closed'
          and exists (
            select
            from app.provider_keys
            where account_id = account.id
              and refused_at is null)) as slots,
      coalesce(
        (
          select percentile_cont(0.5) within group (
            order by extract(epoch from call.ended_at - call.created_at))
          from app.provider_accounts as of_provider
          cross join lateral (
            select state, created_at, ended_at
            from app.provider_calls
            where account_id = of_provider.id
              and ended_at is not null
            order by ended_at desc
            limit 100
          ) as call
          where of_provider.provider = account.provider
            and call.state = 'succeeded'),
        (
          select avg((step ->> 'typical_seconds')::double precision)
          from app.operations
          cross join jsonb_array_elements(steps) as step
          where is_active
            and step ->> 'provider' = account.provider)) as call_seconds
    from app.provider_accounts as account
    group by account.provider
  ) as pace
  cross join lateral (
    select kind.name as kind, kind.name || ':' || pace.provider as line, counted.keys,
      sum(counted.keys) filter (where kind.name = 'batch') over () as batch_keys,
      sum(counted.keys) filter (where kind.name = 'interactive') over () as interactive_keys
    from unnest(array['begun', 'interactive', 'batch']) as kind (name)
    cross join lateral (
      select count(*) as keys
      from app.lines
      where line = kind.name || ':' || pace.provider
    ) as counted
  ) as waiting
  order by waiting.line
  on conflict (line) do update
  set keys = excluded.keys,
    seconds_per_turn = excluded.seconds_per_turn,
    refreshed_at = excluded.refreshed_at;
  insert into app.run_figures (operation, version, run_seconds, refreshed_at)
  select operation, operation_version,
    percentile_cont(0.5) within group (order by extract(epoch from finished_at - started_at)),
    app.now()
  from (
    select operation, operation_version, state, started_at, finished_at
    from app.generations
    where finished_at is not null
    order by finished_at desc
    limit 500
  ) as recent
  where state = 'succeeded'
    and started_at is not null
  group by operation, operation_version
  order by operation, operation_version
  on conflict (operation, version) do update
  set run_seconds = excluded.run_seconds,
    refreshed_at = excluded.refreshed_at;
  return true;
end $$;
comment on function app.refresh_outlook is
$$What people are told about the lines and about how long runs take, from what waits now and from
the last runs. One process at a time, and not more often than asked; false when it was not due.
Lines are counted here and nowhere else.$$;

create function app.mend_lines()
  returns integer
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_mended integer;
begin
  perform app.join_line(
    waiting.line, waiting.user_id, waiting.serve_at, waiting.first_no, waiting.last_no)
  from (
    select line, user_id, min(available_at) as serve_at, min(line_no) as first_no,
      max(line_no) as last_no
    from app.generations
    where line is not null
    group by line, user_id
  ) as waiting
  where not exists (
    select
    from app.lines as place
    where place.line = waiting.line
      and place.key = waiting.user_id
      and place.serve_at <= greatest(waiting.serve_at, app.now())
      and coalesce(place.first_no <= waiting.first_no, waiting.first_no is null))
  order by waiting.line, waiting.user_id;
  get diagnostics v_mended = row_count;
  return v_mended;
end $$;
comment on function app.mend_lines is
$$Whoever has something that waits and no place in its line, or one that passes it over, gets a
place. Nothing in the product leaves such a thing behind; rows that were changed by hand may.
Reads everything that waits: 40 ms with 100,000 (2026-11-28). Returns how many.
Locks: the lines' rows in their order.$$;

create function app.buy_late_image(p_id uuid, p_generation_id uuid)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_image app.late_images;
  v_old app.generations;
  v_price bigint;
begin
  perform app.lock_account(v_user_id);
  select *
  into v_image
  from app.late_images
  where generation_id = p_generation_id
    and user_id = v_user_id
  for no key update;
  if not found then
    raise exception 'no late image' using errcode = 'JS404', detail = '{"kind": "late_image"}';
  end if;
  select *
  into v_old
  from app.generations
  where id = p_generation_id;
  v_price := v_old.cost_credits - coalesce(v_old.charged_credits, 0);
  if v_image.bought_as = p_id then
    return jsonb_build_object('cost_credits', v_price);
  end if;
  if v_image.bought_as is not null then
    raise exception 'already bought'
      using errcode = 'JS409', detail = jsonb_build_object(
        'reason', 'already_bought', 'generation_id', v_image.bought_as)::text;
  end if;
  if v_image.expires_at <= app.now() then
    raise exception 'late image expired' using errcode = 'JS410', detail = '{"kind": "late_image"}';
  end if;
  perform app.reserve(v_user_id, v_price, 'run', p_id);
  perform app.confirm(v_user_id, 'run', p_id);
  insert into app.generations (
    id, user_id, upload_id, operation, operation_version, lane, cost_credits, params, priority,
    retry_of, state, input_key, result, finished_at, charged_credits
  )
  values (
    p_id, v_user_id, v_old.upload_id, v_old.operation, v_old.operation_version, v_old.lane,
    v_price, v_old.params, v_old.priority, v_old.id, 'succeeded', v_old.input_key,
    v_image.result, app.clock_now(), v_price);
  update app.late_images
  set bought_as = p_id
  where generation_id = p_generation_id;
  return jsonb_build_object('cost_credits', v_price);
end $$;
comment on function app.buy_late_image is
$$Buys an image that came after its refund: a generation that is done at once, at the old price less
the share that was charged when the old one was cancelled.
Returns {cost_credits}. Locks: account, lots, late image. Errors: JS401, JS402, JS404, JS410.
Replay: the same new id finds itself done.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function app.buy_late_image(uuid, uuid) to jewelshot_user;
grant execute on function app.receive_provider_webhook(uuid, text, text) to jewelshot_api;
grant execute on function
  app.open_calls(text[], integer, double precision),
  app.record_accepted(uuid, text, text, text, text, double precision),
  app.record_not_accepted(uuid, jsonb, double precision),
  app.record_ambiguous(uuid, text, double precision),
  app.ensure_collect(uuid),
  app.begin_collect(uuid, boolean),
  app.close_call(uuid, uuid, jsonb),
  app.resume_running(uuid, uuid, double precision),
  app.requeue_generation(uuid, uuid, jsonb, double precision, integer),
  app.advance_generation(uuid, uuid, jsonb, text, double precision),
  app.sweep_calls(double precision, integer, integer),
  app.sweep_deadlines(integer),
  app.refresh_outlook(double precision),
  app.mend_lines()
  to jewelshot_worker;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.queue_age_seconds()
  returns double precision
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(extract(epoch from app.now() - min(first.serve_at)), 0)::double precision
  from (select distinct provider from app.provider_accounts) as known
  cross join unnest(array['begun', 'interactive', 'batch']) as kind
  cross join lateral (
    select serve_at
    from app.lines
    where line = kind || ':' || known.provider
      and serve_at < app.now()
    order by serve_at
    limit 1
  ) as first
$$;
comment on function app.queue_age_seconds is
$$How long the person has waited for a turn whose turn is next; 0 when nobody waits. One probe of an
index for each line, however many wait.$$;

create function app.generations_health()
  returns jsonb
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'known', count(*),
    'healthy', count(*) filter (where breaker_state = 'closed' and keys_refused < keys),
    'refused_keys', coalesce(sum(keys_refused), 0),
    'queue_age_seconds', app.queue_age_seconds())
  from app.accounts_in_use()
$$;
comment on function app.generations_health is
$$Facts about generations for /readyz. Cheap: partial indexes only.$$;

create function app.generations_figures()
  returns table (name text, labels jsonb, value double precision)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
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
  select 'jewelshot_queue_age_seconds', '{}', app.queue_age_seconds()
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
  select 'jewelshot_provider_breaker_open', jsonb_build_object('account', name),
    (breaker_state <> 'closed' or keys_refused = keys)::integer
  from app.accounts_in_use()
  union all
  select 'jewelshot_provider_breaker_failures', jsonb_build_object('account', name),
    breaker_failures
  from app.accounts_in_use()
  union all
  select 'jewelshot_provider_keys_refused', jsonb_build_object('account', name), keys_refused
  from app.accounts_in_use()
$$;
comment on function app.generations_figures is
$$Gauges and counters of generations for /metrics as (name, labels, value).$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.generations_health(),
  app.generations_figures()
  to jewelshot_api;
