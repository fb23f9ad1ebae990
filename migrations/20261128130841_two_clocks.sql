-- Tickets are served from lines, and of the two clocks, waiting and working, exactly one runs.

alter table app.operations
  add column wait_seconds integer not null default 1800,
  add column batch_wait_seconds integer not null default 172800,
  add constraint operations_wait check (wait_seconds > 0 and batch_wait_seconds > 0);

alter table app.provider_accounts
  add column tickets bigint not null default 0;

-- What is under way: begun where a call was accepted or may have been, waiting where none was.
update app.generations as generation
set started_at = called.since
from (
  select generation_id, min(coalesce(accepted_at, created_at)) as since
  from app.provider_calls
  where accepted_at is not null
    or state in ('ambiguous', 'abandoned')
  group by generation_id
) as called
where called.generation_id = generation.id
  and generation.finished_at is null;
update app.generations
set wait_until = created_at + interval '30 minutes', give_up_at = null, deadline_at = null
where finished_at is null
  and started_at is null;

drop index app.generations_queue;
drop index app.generations_open;
alter table app.generations
  add column line text,
  add constraint generations_one_clock check (
    finished_at is not null
    or (num_nonnulls(wait_until, deadline_at, held_at) = 1
      and (started_at is null) = (deadline_at is null)
      and (give_up_at is null) = (deadline_at is null))),
  add constraint generations_line check (line is null or (state = 'queued' and held_at is null)),
  drop constraint generations_ending,
  add constraint generations_ending check (ending in (
    'cancelled', 'content_refused', 'input_refused', 'photo_too_small', 'photo_too_large',
    'photo_file_too_large', 'photo_format', 'photo_unreadable', 'photo_not_fetched',
    'face_not_found', 'params_refused', 'request_refused', 'model_missing', 'provider_failed',
    'provider_failed_once', 'no_image', 'waited_too_long',
    'not_started_in_time', 'deadline_exceeded', 'photo_missing', 'params_invalid',
    'delivery_failed', 'output_broken', 'output_flagged', 'output_bad_parameters',
    'output_empty_output', 'output_too_many_bytes', 'output_wrong_type', 'output_undecodable',
    'output_absurd_size', 'output_blank', 'output_aspect_changed', 'output_not_enlarged',
    'output_no_alpha', 'output_size_mismatch', 'output_nothing_found',
    'output_background_not_found'));
create index generations_line_again on app.generations (line, user_id, available_at)
  where line is not null and line_no is null;
create index generations_line_next on app.generations (line, user_id, line_no, id)
  where line is not null and line_no is not null;
create index generations_open on app.generations (coalesce(give_up_at, wait_until))
  where state in ('queued', 'submitting', 'running', 'collecting', 'uncertain');

drop table app.user_turns;

set local lock_timeout = '5s';
set local statement_timeout = '60s';

drop function app.fair_queue(smallint,integer);

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
    retry_of, state, input_key, result, finished_at
  )
  values (
    p_id, v_user_id, v_old.upload_id, v_old.operation, v_old.operation_version, v_old.lane,
    v_old.cost_credits, v_old.params, v_old.priority, v_old.id, 'succeeded', v_old.input_key,
    v_image.result, app.clock_now());
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

create or replace function app.end_turn(
  p_line text, p_key uuid, p_next_at timestamptz, p_first_no bigint default null
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
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
    'queue_age_seconds', app.queue_age_seconds())
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
      foreach v_kind in array v_kinds loop
        v_generation_id := app.take_from_line(v_kind || ':' || v_account.provider);
        exit when v_generation_id is not null;
      end loop;
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

create or replace function app.queue_age_seconds()
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

create or replace function app.somebody_waits(p_fingerprints text[])
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
      and coalesce(generation.deadline_at, generation.finished_at) < app.now()
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
    -- Again, now that it is locked: its turn may have come meanwhile.
    if v_generation.deadline_at <= app.now()
      or (v_generation.state = 'queued' and (
        v_generation.cancel_requested_at is not null
        or coalesce(v_generation.give_up_at, v_generation.wait_until) <= app.now()))
    then
      return next app.finish_generation(
        v_generation.id, null,
        case when v_generation.cancel_requested_at is null then 'failed' else 'cancelled' end,
        jsonb_build_object(
          'call_id', case when v_generation.state <> 'queued' then v_generation.current_call_id end,
          'call', jsonb_build_object('state', 'abandoned', 'error_type', 'deadline'),
          'ending', case
            when v_generation.cancel_requested_at is not null then 'cancelled'
            when v_generation.wait_until is not null then 'waited_too_long'
            else 'deadline_exceeded' end));
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

create or replace function app.take_from_line(p_line text)
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
begin
  -- Few turns come to nothing; where many do, each ticket clears some of them away.
  for v_turn in 1..8 loop
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
  end loop;
  return null;
end $$;

create or replace function app.take_turn(p_line text)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_sort = off
  set enable_seqscan = off
  set enable_bitmapscan = off
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
$$All that a worker needs to make one POST. `seconds_left` are those until the generation is given
up, which begin to run with its first call. The callback token leaves the database only here.$$;

comment on function app.open_calls is
$$Up to p_limit calls for the keys a process holds, as app.call_intent. No slot, no healthy account
or no usable key of one: none. An account whose breaker is open gets one probe when its pause is
over, before any other account is served.
Locks: the provider accounts of the keys by ascending id (two processes that served them in the
order of their load would wait for each other), then lines and generations by skip locked.
Replay: a call whose intent was lost is found by the sweep by its expired lease.$$;

comment on function app.queue_age_seconds is
$$How long the person has waited for a turn whose turn is next; 0 when nobody waits. One probe of an
index for each line, however many wait.$$;

comment on function app.record_not_accepted is
$$Surely not accepted: the slot is free again and the generation waits for its turn. That is not an
attempt, and no time of the work: before its first accepted call it waits as long as it did before.
Locks: generation, call. Replay: an ended call changes nothing. Returns the change or null.$$;

comment on function app.somebody_waits is
$$Whether a ticket could serve anybody for whom one of these keys is. Cheap: asked each second by
every process.$$;

comment on function app.start_generation is
$$The one way for users to start: identity from the claims, price and times from the catalogue.
It waits in its line from now on. Adds the ticket, a task whose dedupe key is the generation's id,
which nobody else adds, so it may come after the line. Returns app.start_answer.
Locks: upload (shared), account, lots, line. Errors: JS401, JS402, JS404 {kind: operation|upload},
JS409 {reason: upload_not_ready, state}, JS422 {field: priority|params}.
Replay: the same id and terms find themselves done.$$;

comment on function app.sweep_deadlines is
$$Generations out of time, by the clock that runs. Waiting: it was never started, so it ends free.
Working, and not at the provider: failed and refunded. Working, and possibly at the provider:
cancelled there and uncertain, listening; at the deadline refunded, listening on for a late image. A
cancelled generation that fell back into the line ends here too.
Processes share them: whose account is locked, by another sweep or by a purchase, is passed over,
and as many again are looked through. The caller asks again until nothing changes.
Locks: account by skip locked, reservation, lots, generation. Returns the changes.$$;

comment on function app.take_from_line is
$$The generation that is served next in a line, locked, and its owner at the end of the line: of the
person whose turn it is what has had a turn before and may be tried again, otherwise the lowest
number. Null when nobody may be served. What is out of time leaves the line and waits for the
sweep. The cost depends neither on how many people wait nor on what each has waiting.
Locks: the line's row, then the generation, both by skip locked.$$;

comment on function app.take_turn is
$$The key that has waited longest in a line for its turn; null when nobody may be served now.
Statistics from an hour in which nobody waited would let the planner read and sort the whole line:
hence only the index in its own order. Locks: the line's row by skip locked, so it waits for nobody.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

create or replace function app.choose_line()
  returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  if new.state <> 'queued' or new.held_at is not null or new.cancel_requested_at is not null then
    new.line := null;
    if new.state <> 'queued' then
      new.line_no := null;
    end if;
    return new;
  end if;
  select concat(
    case when new.started_at is not null then 'begun' when new.priority = 0 then 'interactive'
      else 'batch' end,
    ':', operation.steps -> new.step ->> 'provider')
  into new.line
  from app.operations as operation
  where operation.slug = new.operation
    and operation.version = new.operation_version;
  if new.available_at > app.now() then
    new.line_no := null;
  elsif tg_op = 'INSERT' and new.line_no is null then
    new.line_no := 1 + coalesce((
      select last_no
      from app.lines
      where line = new.line
        and key = new.user_id), 0);
  end if;
  return new;
end $$;

create or replace function app.join_line_of_generation()
  returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform app.join_line(new.line, new.user_id, new.available_at, new.line_no, new.line_no);
  return null;
end $$;

create or replace function app.join_line_of_new_generations()
  returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform app.join_line(line, user_id, min(available_at), min(line_no), max(line_no))
  from made
  where line is not null
  group by line, user_id
  order by line, user_id;
  return null;
end $$;

create or replace function app.latest_end(p_generation app.generations)
  returns timestamptz
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    p_generation.deadline_at,
    p_generation.wait_until + (
      select make_interval(secs => deadline_seconds)
      from app.operations
      where slug = p_generation.operation
        and version = p_generation.operation_version),
    p_generation.finished_at)
$$;

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
    'subject_id', reservation.subject_id, 'wait_until', generation.wait_until,
    'deadline_at', generation.deadline_at)
  from app.reservations as reservation
  join app.generations as generation on generation.id = reservation.subject_id
  where reservation.state = 'pending'
    and generation.held_at is null
    and coalesce(
      coalesce(generation.deadline_at, generation.wait_until) < app.now() - interval '5 minutes',
      true)

  union all
  select 'generation_out_of_line', 'generations', min(generation.id::text), jsonb_build_object(
    'line', generation.line, 'user_id', generation.user_id, 'waiting', count(*),
    'serve_at', place.serve_at)
  from app.generations as generation
  left join app.lines as place on place.line = generation.line and place.key = generation.user_id
  where generation.line is not null
  group by generation.line, generation.user_id, place.serve_at
  having coalesce(
    place.serve_at > greatest(min(generation.available_at), app.now()) + interval '1 minute', true)
$$;

create or replace function app.start_answer(p_generation app.generations)
  returns jsonb
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'version', p_generation.version,
    'operation_version', p_generation.operation_version,
    'lane', p_generation.lane,
    'cost_credits', p_generation.cost_credits,
    'created_at', p_generation.created_at,
    'wait_until', p_generation.wait_until,
    'deadline_at', app.latest_end(p_generation))
$$;

create or replace function app.start_working_clock()
  returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  select app.now(),
    app.now() + make_interval(secs => operation.deadline_seconds - operation.uncertain_seconds),
    app.now() + make_interval(secs => operation.deadline_seconds)
  into new.started_at, new.give_up_at, new.deadline_at
  from app.operations as operation
  where operation.slug = new.operation
    and operation.version = new.operation_version;
  new.wait_until := null;
  return new;
end $$;

comment on function app.choose_line is
$$Trigger: what is queued and neither held nor cancelled waits in a line, and nothing else does. The
line names the provider of the next step, so that nobody waits behind work for another one's slots.
A new generation is numbered behind its owner's others unless it brings a number; one that has had
its turn, or may not be served yet, has none.$$;

comment on function app.join_line_of_generation is
$$Trigger, after the row: its owner waits in its line. Locks: the line's row.$$;

comment on function app.join_line_of_new_generations is
$$Trigger, after an insert of any number of rows: their owners wait in their lines.
Locks: the lines' rows in their order.$$;

comment on function app.latest_end is
$$When a generation has ended at the latest: its deadline, or, while it waits, the deadline that it
would have if it began at the last moment. It only ever comes earlier. Null while it is held.$$;

comment on function app.prove_generations is
$$The end of a generation and the end of its money are the same event, none is overdue by the clock
that runs, and whoever has one that waits for a ticket has a place in its line.
Owned by the migrating role, which bypasses row level security; row_security = off makes a role
that would be filtered raise instead of seeing nothing.$$;

comment on function app.start_working_clock is
$$Trigger, when a call was accepted or may have been for the first time: the waiting clock stops and
the working clock begins, over all steps and attempts.$$;

grant execute on function app.latest_end(app.generations) to jewelshot_ledger;

grant execute on function app.latest_end(app.generations) to jewelshot_user;

create trigger generations_clock
  before update of state on app.generations
  for each row
  when (new.started_at is null and new.state in ('running', 'uncertain', 'collecting'))
  execute function app.start_working_clock();

create trigger generations_join
  after insert on app.generations
  referencing new table as made
  for each statement execute function app.join_line_of_new_generations();

create trigger generations_join_again
  after update of state, held_at, cancel_requested_at, available_at on app.generations
  for each row
  when (new.line is not null
    and (old.line is distinct from new.line or new.available_at < old.available_at))
  execute function app.join_line_of_generation();

create trigger generations_line
  before insert or update of state, held_at, cancel_requested_at, available_at
  on app.generations
  for each row when (new.state = 'queued' or new.line is not null)
  execute function app.choose_line();

-- What waits joins its line.
update app.generations
set state = state
where state = 'queued';
