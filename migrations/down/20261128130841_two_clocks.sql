set local lock_timeout = '5s';
set local statement_timeout = '60s';

drop trigger generations_clock on app.generations;

drop trigger generations_join on app.generations;

drop trigger generations_join_again on app.generations;

drop trigger generations_line on app.generations;

drop function app.choose_line();

drop function app.join_line_of_generation();

drop function app.join_line_of_new_generations();

drop function app.latest_end(app.generations);

drop function app.queue_age_seconds();

drop function app.somebody_waits(text[]);

drop function app.start_working_clock();

drop function app.take_from_line(text);

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.begin_collect(p_call_id uuid, p_take_over boolean default false)
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
    'is_given_up', v_generation.give_up_at <= app.now(),
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
    'call_created_at', v_call.created_at,
    'step', v_call.step,
    'endpoint', v_call.endpoint,
    'provider', v_call.provider,
    'account_id', v_call.account_id,
    'account', (select name from app.provider_accounts where id = v_call.account_id),
    'key_fingerprint', v_call.key_fingerprint,
    'request_id', v_call.request_id,
    'response_url', v_call.response_url);
end $$;

create or replace function app.buy_late_image(p_id uuid, p_generation_id uuid)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_image app.late_images;
  v_old app.generations;
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
  if v_image.bought_as = p_id then
    return jsonb_build_object('cost_credits', v_old.cost_credits);
  end if;
  if v_image.bought_as is not null then
    raise exception 'already bought'
      using errcode = 'JS409', detail = jsonb_build_object(
        'reason', 'already_bought', 'generation_id', v_image.bought_as)::text;
  end if;
  if v_image.expires_at <= app.now() then
    raise exception 'late image expired' using errcode = 'JS410', detail = '{"kind": "late_image"}';
  end if;
  perform app.reserve(v_user_id, v_old.cost_credits, 'run', p_id);
  perform app.confirm(v_user_id, 'run', p_id);
  insert into app.generations (
    id, user_id, upload_id, operation, operation_version, lane, cost_credits, params, priority,
    retry_of, state, input_key, give_up_at, deadline_at, result, finished_at
  )
  values (
    p_id, v_user_id, v_old.upload_id, v_old.operation, v_old.operation_version, v_old.lane,
    v_old.cost_credits, v_old.params, v_old.priority, v_old.id, 'succeeded', v_old.input_key,
    app.now(), app.now(), v_image.result, app.clock_now());
  update app.late_images
  set bought_as = p_id
  where generation_id = p_generation_id;
  return jsonb_build_object('cost_credits', v_old.cost_credits);
end $$;

create or replace function app.call_intent(p_call_id uuid, p_token text)
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
      extract(epoch from generation.give_up_at - app.now())::double precision)
  from app.provider_calls as call
  join app.generations as generation on generation.id = call.generation_id
  join app.provider_accounts as account on account.id = call.account_id
  join app.operations as operation
    on operation.slug = generation.operation and operation.version = generation.operation_version
  where call.id = p_call_id
$$;

create or replace function app.end_turn(
  p_line text, p_key uuid, p_next_at timestamptz, p_first_no bigint default null
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if p_next_at is null then
    delete from app.lines
    where line = p_line
      and key = p_key;
  else
    update app.lines
    set serve_at = greatest(p_next_at, app.clock_now()),
      first_no = coalesce(p_first_no, first_no)
    where line = p_line
      and key = p_key;
  end if;
end $$;

create or replace function app.fair_queue(p_priority smallint, p_limit integer)
  returns table (generation_id uuid, user_id uuid)
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_sort = off
as $$
#variable_conflict use_column
begin
  return query
  with recursive waiting as (
    (
      select queued.user_id
      from app.generations as queued
      where queued.state = 'queued'
        and queued.priority = p_priority
      order by queued.user_id
      limit 1
    )
    union all
    select (
      select queued.user_id
      from app.generations as queued
      where queued.state = 'queued'
        and queued.priority = p_priority
        and queued.user_id > waiting.user_id
      order by queued.user_id
      limit 1
    )
    from waiting
    where waiting.user_id is not null
  )
  select next.id, waiting.user_id
  from waiting
  cross join lateral (
    select queued.id, queued.available_at
    from app.generations as queued
    where queued.state = 'queued'
      and queued.priority = p_priority
      and queued.user_id = waiting.user_id
      and queued.available_at <= app.now()
      and queued.give_up_at > app.now()
      and queued.cancel_requested_at is null
    order by queued.available_at
    limit 1
  ) as next
  left join app.user_turns as turn on turn.user_id = waiting.user_id
  order by turn.last_served_at nulls first, next.available_at
  limit p_limit;
end $$;

create or replace function app.generations_figures()
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
  select 'jewelshot_queue_age_seconds', '{}',
    coalesce(extract(epoch from app.now() - min(available_at)), 0)
  from app.generations
  where state = 'queued'
    and available_at < app.now()
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
    (account.breaker_state <> 'closed' or not exists (
      select
      from app.provider_keys
      where account_id = account.id
        and refused_at is null))::integer
  from app.provider_accounts as account
  union all
  select 'jewelshot_provider_breaker_failures', jsonb_build_object('account', account.name),
    account.breaker_failures
  from app.provider_accounts as account
  union all
  select 'jewelshot_provider_keys_refused', jsonb_build_object('account', account.name),
    count(key.refused_at)
  from app.provider_accounts as account
  left join app.provider_keys as key on key.account_id = account.id
  group by account.name
$$;

create or replace function app.generations_health()
  returns jsonb
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'known', (select count(*) from app.provider_accounts),
    'healthy', (
      select count(*)
      from app.provider_accounts as account
      where breaker_state = 'closed'
        and exists (
          select
          from app.provider_keys
          where account_id = account.id
            and refused_at is null)),
    'refused_keys', (select count(*) from app.provider_keys where refused_at is not null),
    'queue_age_seconds', (
      select coalesce(extract(epoch from app.now() - min(available_at)), 0)
      from app.generations
      where state = 'queued'
        and available_at < app.now()))
$$;

create or replace function app.open_calls(
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
  v_next record;
begin
  if not exists (
    select from app.generations where state = 'queued' and available_at <= app.now()
  ) then
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
    select account.id, account.provider, account.breaker_state,
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
    for v_next in
      select *
      from (
        select 0 as priority, queued.*
        from app.fair_queue(0::smallint, v_free) with ordinality as queued
        union all
        select 1, queued.*
        from app.fair_queue(1::smallint, v_free) with ordinality as queued
      ) as candidate
      order by candidate.priority, candidate.ordinality
    loop
      exit when v_free <= 0;
      perform
      from app.generations as generation
      join app.operations as operation
        on operation.slug = generation.operation
        and operation.version = generation.operation_version
      where generation.id = v_next.generation_id
        and generation.state = 'queued'
        and generation.cancel_requested_at is null
        and operation.steps -> generation.step ->> 'provider' = v_account.provider
      for no key update of generation skip locked;
      if not found then
        continue;
      end if;
      v_key := app.take_key(
        v_account.id, p_fingerprints, v_account.breaker_state <> 'closed');
      exit when v_key is null;
      insert into app.user_turns (user_id, last_served_at)
      values (v_next.user_id, app.clock_now())
      on conflict (user_id) do update
      set last_served_at = excluded.last_served_at;
      v_intent := app.open_call(v_next.generation_id, v_account.id, v_key, p_lease_seconds);
      if v_account.breaker_state <> 'closed' then
        perform app.begin_probe(
          v_account.id, (v_intent ->> 'call_id')::uuid, p_lease_seconds);
      end if;
      return next v_intent;
      v_free := v_free - 1;
      v_left := v_left - 1;
    end loop;
    exit when v_left <= 0;
  end loop;
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
  perform app.reserve(v_user_id, v_operation.cost_credits, 'run', p_id);
  insert into app.generations (
    id, user_id, upload_id, operation, operation_version, lane, cost_credits, params, priority,
    retry_of, input_key, give_up_at, deadline_at, request_id
  )
  values (
    p_id, v_user_id, p_upload_id, v_operation.slug, v_operation.version, v_operation.lane,
    v_operation.cost_credits, p_params, p_priority, p_retry_of, v_upload.normal_key,
    app.now() + make_interval(secs => v_operation.deadline_seconds - v_operation.uncertain_seconds),
    app.now() + make_interval(secs => v_operation.deadline_seconds),
    nullif(current_setting('app.request_id', true), ''))
  returning * into v_existing;
  perform app.add_task(
    'generation.dispatch', '{}', p_id::text);
  return app.start_answer(v_existing);
end $$;

create or replace function app.sweep_calls(
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
      resubmissions = resubmissions + 1,
      attempts = attempts + 1,
      available_at = app.now()
    where id = v_call.generation_id
      and current_call_id = v_call.id
      and state = 'uncertain'
      and cancel_requested_at is null
      and attempts + 1 < p_attempts_max
      and give_up_at > app.now()
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
      and generation.deadline_at < app.now()
    limit p_limit
  loop
    perform app.end_call(v_call.id, '{"state": "abandoned", "error_type": "deadline"}');
  end loop;
end $$;

create or replace function app.sweep_deadlines(p_limit integer)
  returns setof jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_row record;
  v_generation app.generations;
begin
  for v_row in
    select due.id, due.user_id
    from (
      (
        select id, user_id
        from app.generations
        where state in ('queued', 'submitting', 'running', 'collecting', 'uncertain')
          and give_up_at <= app.now()
          and (gave_up_at is null or state = 'queued' or deadline_at <= app.now())
        order by give_up_at
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
    limit p_limit
    for no key update of account skip locked
  loop
    select *
    into v_generation
    from app.generations
    where id = v_row.id
      and finished_at is null
    for no key update skip locked;
    if not found then
      continue;
    end if;
    if v_generation.state = 'queued' or v_generation.deadline_at <= app.now() then
      return next app.finish_generation(
        v_generation.id, null,
        case when v_generation.cancel_requested_at is null then 'failed' else 'cancelled' end,
        jsonb_build_object(
          'call_id', case when v_generation.state <> 'queued' then v_generation.current_call_id end,
          'call', jsonb_build_object('state', 'abandoned', 'error_type', 'deadline'),
          'ending', case when v_generation.cancel_requested_at is null
            then 'deadline_exceeded' else 'cancelled' end));
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

create or replace function app.take_turn(p_line text)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_sort = off
as $$
declare
  v_now timestamptz := app.clock_now();
  v_key uuid;
begin
  select key
  into v_key
  from app.lines
  where line = p_line
    and serve_at <= v_now
  order by serve_at
  limit 1
  for update skip locked;
  return v_key;
end $$;

comment on function app.call_intent is
$$All that a worker needs to make one POST. The callback token leaves the database only here.$$;

comment on function app.fair_queue is
$$The next users to be served, one generation each: the longest not served first.
Source of the loose index scan: https://wiki.postgresql.org/wiki/Loose_indexscan
Statistics taken while nothing waited make every partial index look as good as the queue's; one
that has to be sorted made this quadratic (400 people waiting: 440 ms instead of 17).$$;

comment on function app.open_calls is
$$Up to p_limit calls for the keys a process holds, as app.call_intent. No slot, no healthy account
or no usable key of one: none. An account whose breaker is open gets one probe when its pause is
over, before any other account is served.
Locks: the provider accounts of the keys by ascending id (two processes that served them in the
order of their load would wait for each other), then generations by skip locked.
Replay: a call whose intent was lost is found by the sweep by its expired lease.$$;

comment on function app.record_not_accepted is
$$Surely not accepted: the slot is free again and the generation waits for its turn.
That is not an attempt: only the deadline ends it.
Locks: generation, call. Replay: an ended call changes nothing. Returns the change or null.$$;

comment on function app.start_generation is
$$The one way for users to start: identity from the claims, price and deadline from the catalogue.
Adds the ticket, a task whose dedupe key is the generation's id. Returns app.start_answer.
Locks: upload (shared), account, lots. Errors: JS401, JS402, JS404 {kind: operation|upload},
JS409 {reason: upload_not_ready, state}, JS422 {field: priority|params}. Replay: the same id and terms find themselves done.$$;

comment on function app.sweep_deadlines is
$$Generations out of time. Never accepted: failed and refunded. Possibly accepted: cancelled at
the provider and uncertain, listening; at the deadline refunded, listening on for a late image.
A cancelled generation that fell back into the queue ends here too.
Processes share them: whose account is locked, by another sweep or by a purchase, is passed over,
and as many again are looked through. The caller asks again until nothing changes.
Locks: account by skip locked, reservation, lots, generation. Returns the changes.$$;

comment on function app.take_turn is
$$The key that has waited longest in a line for its turn; null when nobody may be served now.
Statistics from an hour in which nobody waited would let the planner read and sort the whole line:
hence no sort. Locks: the line's row by skip locked, so it waits for nobody.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

create or replace function app.prove_generations()
  returns table (check_name text, table_name text, row_id text, detail jsonb)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set row_security = off
as $$
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
    and generation.deadline_at < app.now() - interval '5 minutes'
$$;

create or replace function app.start_answer(p_generation app.generations)
  returns jsonb
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'version', p_generation.version,
    'operation_version', p_generation.operation_version,
    'lane', p_generation.lane,
    'cost_credits', p_generation.cost_credits,
    'created_at', p_generation.created_at,
    'deadline_at', p_generation.deadline_at)
$$;

comment on function app.prove_generations is
$$The end of a generation and the end of its money are the same event, and none is overdue.
Owned by the migrating role, which bypasses row level security; row_security = off makes a role
that would be filtered raise instead of seeing nothing.$$;

create table app.user_turns (
  user_id uuid primary key references app.users (id) on delete restrict,
  last_served_at timestamptz not null
);
alter table app.user_turns enable row level security;
alter table app.user_turns force row level security;
revoke all on app.user_turns from public, anon, authenticated, service_role;
grant select, insert, update on app.user_turns to jewelshot_ledger;
grant select on app.user_turns to jewelshot_worker, jewelshot_admin;
create policy user_turns_writer on app.user_turns to jewelshot_ledger
  using (true) with check (true);
create policy user_turns_worker on app.user_turns for select to jewelshot_worker using (true);
create policy user_turns_admin on app.user_turns for select to jewelshot_admin
  using ((select app.is_admin()));

alter table app.generations
  drop constraint generations_one_clock,
  drop constraint generations_line;
drop index app.generations_line_again;
drop index app.generations_line_next;
drop index app.generations_open;
update app.generations
set ending = 'deadline_exceeded'
where ending = 'waited_too_long';
update app.generations
set give_up_at = wait_until, deadline_at = wait_until + interval '2 minutes', wait_until = null
where finished_at is null
  and wait_until is not null;
alter table app.generations
  drop column line,
  drop constraint generations_ending,
  add constraint generations_ending check (ending in (
    'cancelled', 'content_refused', 'input_refused', 'photo_too_small', 'photo_too_large',
    'photo_file_too_large', 'photo_format', 'photo_unreadable', 'photo_not_fetched',
    'face_not_found', 'params_refused', 'request_refused', 'model_missing', 'provider_failed',
    'provider_failed_once', 'no_image',
    'not_started_in_time', 'deadline_exceeded', 'photo_missing', 'params_invalid',
    'delivery_failed', 'output_broken', 'output_flagged', 'output_bad_parameters',
    'output_empty_output', 'output_too_many_bytes', 'output_wrong_type', 'output_undecodable',
    'output_absurd_size', 'output_blank', 'output_aspect_changed', 'output_not_enlarged',
    'output_no_alpha', 'output_size_mismatch', 'output_nothing_found',
    'output_background_not_found'));
create index generations_queue on app.generations (priority, user_id, available_at)
  where state = 'queued';
create index generations_open on app.generations (give_up_at)
  where state in ('queued', 'submitting', 'running', 'collecting', 'uncertain');
alter table app.provider_accounts drop column tickets;
alter table app.operations
  drop constraint operations_wait,
  drop column batch_wait_seconds,
  drop column wait_seconds;
