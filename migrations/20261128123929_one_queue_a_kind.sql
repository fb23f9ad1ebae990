-- To which queue a task is sent says its job, in code; the database no longer repeats it.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

alter table app.outbox drop column queue;
alter table app.dead_letters drop column queue;
drop function app.note_wakeup(uuid, text);

drop function app.add_task(text,jsonb,text,text,double precision);

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.add_task(
  p_job text, p_args jsonb, p_dedupe_key text default null,
  p_delay_seconds double precision default 2
)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid;
begin
  insert into app.outbox (job, args, dedupe_key, due_at, request_id)
  values (p_job, p_args, p_dedupe_key,
    app.now() + make_interval(secs => p_delay_seconds),
    coalesce(
      nullif(current_setting('app.request_id', true), ''),
      (
        select generation.request_id
        from app.provider_calls as call
        join app.generations as generation on generation.id = call.generation_id
        where call.id = (p_args ->> 'call_id')::uuid
      )))
  on conflict (job, dedupe_key) where dedupe_key is not null do update
  set wanted = outbox.wanted + 1,
    due_at = least(outbox.due_at, excluded.due_at)
  returning id into v_id;
  if p_delay_seconds <= 2 then
    perform app.note_wakeup(v_id, p_job);
  end if;
  return v_id;
end $$;

create or replace function app.cancel_generation(p_id uuid)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_generation app.generations;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  perform app.lock_account(v_user_id);
  select *
  into v_generation
  from app.generations
  where id = p_id
    and user_id = v_user_id
  for no key update;
  if not found then
    raise exception 'no such generation'
      using errcode = 'JS404', detail = '{"kind": "generation"}';
  end if;
  if v_generation.state = 'cancelled' then
    return app.generation_change(v_generation);
  end if;
  if v_generation.finished_at is not null then
    raise exception 'generation has ended'
      using errcode = 'JS409', detail = jsonb_build_object(
        'reason', 'already_finished', 'state', v_generation.state)::text;
  end if;
  if v_generation.state = 'queued' then
    return app.finish_generation(p_id, null, 'cancelled', '{"ending": "cancelled"}');
  end if;
  update app.generations
  set cancel_requested_at = coalesce(cancel_requested_at, app.now())
  where id = p_id
  returning * into v_generation;
  perform app.add_task(
    'provider_call.cancel', jsonb_build_object('call_id', v_generation.current_call_id),
    v_generation.current_call_id::text);
  return app.generation_change(v_generation);
end $$;

create or replace function app.complete_upload(p_id uuid, p_source_format text, p_size_bytes bigint)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_state text;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  select state
  into v_state
  from app.uploads
  where id = p_id
    and user_id = v_user_id
  for no key update;
  if not found then
    raise exception 'no such upload' using errcode = 'JS404', detail = '{"kind": "upload"}';
  end if;
  if v_state = 'expired' then
    raise exception 'upload expired'
      using errcode = 'JS409', detail = '{"reason": "upload_expired", "state": "expired"}';
  end if;
  if v_state <> 'pending' then
    return null;
  end if;
  update app.uploads
  set state = 'stored', source_format = p_source_format, size_bytes = p_size_bytes
  where id = p_id;
  return app.add_task(
    'upload.normalise', jsonb_build_object('upload_id', p_id), p_id::text);
end $$;

create or replace function app.dead_letter_task(p_lease_token uuid, p_error text)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_letter_id uuid;
begin
  insert into app.dead_letters (
    task_id, job, args, dedupe_key, claims, failures, error, request_id, created_at
  )
  select id, job, args, dedupe_key, claims, failures, left(p_error, 4000), request_id,
    created_at
  from app.outbox
  where lease_token = p_lease_token
  returning id into v_letter_id;
  perform app.complete_task(p_lease_token);
  return v_letter_id;
end $$;

create or replace function app.end_task(p_lease_token uuid)
  returns boolean
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_id uuid;
  v_job text;
begin
  delete from app.outbox
  where lease_token = p_lease_token
    and wanted = claimed;
  if found then
    return true;
  end if;
  update app.outbox
  set lease_token = null,
    lease_until = null,
    due_at = app.now(),
    claims = 0,
    failures = '{}'
  where lease_token = p_lease_token
  returning id, job into v_id, v_job;
  if not found then
    return false;
  end if;
  perform app.note_wakeup(v_id, v_job);
  return true;
end $$;

create or replace function app.ensure_collect(p_call_id uuid)
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

create or replace function app.erase_upload(p_upload app.uploads)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_args jsonb := jsonb_build_object('upload_id', p_upload.id, 'user_id', p_upload.user_id);
begin
  perform app.add_task('upload.erase', v_args, null, 0);
  if p_upload.signed_until > app.now() then
    perform app.add_task(
      'upload.erase', v_args, p_upload.id || ' late',
      extract(epoch from p_upload.signed_until - app.now())::double precision + 60);
  end if;
end $$;

create or replace function app.finish_generation(
  p_id uuid, p_lease_token uuid, p_outcome text, p_facts jsonb
)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
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
      if found then
        perform app.emit(
          v_generation.user_id, 'late_image.arrived', p_id, v_generation.version,
          jsonb_build_object('operation', v_generation.operation, 'lane', v_generation.lane,
            'cost_credits', v_generation.cost_credits));
      end if;
    end if;
    return app.generation_change(v_generation) || '{"late": true}';
  end if;
  if p_outcome <> 'succeeded' and v_call_id <> v_generation.current_call_id then
    return null;
  end if;
  -- A call that was submitted after an ambiguous answer is not needed any more.
  perform app.add_task(
    'provider_call.cancel', jsonb_build_object('call_id', id), id::text, 0)
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
    finished_at = app.clock_now(),
    result = case when p_outcome = 'succeeded' then p_facts -> 'result' end,
    ending = case when p_outcome <> 'succeeded' then p_facts ->> 'ending' end
  where id = p_id
  returning * into v_generation;
  return app.generation_change(v_generation) || '{"late": false}';
end $$;

create or replace function app.issue_scheduled_tasks()
  returns integer
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_schedule app.schedules;
  v_issued integer := 0;
begin
  for v_schedule in
    select *
    from app.schedules
    where next_due_at <= app.now()
    order by name
    for update skip locked
  loop
    perform app.add_task(v_schedule.job, '{}', v_schedule.name, 0);
    update app.schedules
    set next_due_at = app.now() + make_interval(secs => every_seconds), last_issued_at = app.now()
    where name = v_schedule.name;
    v_issued := v_issued + 1;
  end loop;
  return v_issued;
end $$;

create or replace function app.note_wakeup(p_task_id uuid, p_job text)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_noted text := coalesce(current_setting('app.wakeups', true), '');
  v_entry text := p_job || ':' || p_task_id;
begin
  if length(v_noted) - length(replace(v_noted, ':', '')) >= 32 then
    v_entry := p_job;
    if v_entry = any (string_to_array(v_noted, ' ')) then
      return;
    end if;
  end if;
  perform set_config('app.wakeups', ltrim(v_noted || ' ' || v_entry), true);
end $$;

create or replace function app.open_return(
  p_return_id uuid, p_order app.orders, p_amount bigint, p_origin text, p_reason text, p_key text
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into app.payment_returns (
    id, order_id, user_id, amount, currency, origin, reason, idempotency_key
  )
  values (p_return_id, p_order.id, p_order.user_id, p_amount, p_order.currency, p_origin,
    p_reason, p_key);
  perform app.settle_order(p_order.id);
  perform app.add_task(
    'return.create', jsonb_build_object('return_id', p_return_id), p_return_id::text);
end $$;

create or replace function app.receive_provider_webhook(p_call_id uuid, p_token text, p_request_id text)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_call app.provider_calls;
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
  update app.provider_calls
  set webhook_at = coalesce(webhook_at, app.clock_now()),
    request_id = coalesce(request_id, p_request_id),
    accepted_at = coalesce(accepted_at, app.clock_now()),
    state = case when state in ('submitting', 'ambiguous') then 'accepted' else state end
  where id = p_call_id
  returning * into v_call;
  if v_call.state not in ('accepted', 'abandoned') then
    return null;
  end if;
  perform app.record_running(v_call.generation_id, p_call_id);
  return app.add_task(
    'provider_call.collect', jsonb_build_object('call_id', p_call_id), p_call_id::text);
end $$;

create or replace function app.receive_stripe_event(
  p_id text, p_type text, p_object_id text, p_created double precision, p_payload jsonb,
  p_source text
)
  returns boolean
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into app.stripe_events (id, type, object_id, created, payload, source)
  values (p_id, p_type, p_object_id, to_timestamp(p_created), p_payload, p_source)
  on conflict do nothing;
  if not found then
    return false;
  end if;
  perform app.add_task(
    'stripe_event.handle', jsonb_build_object('event_id', p_id), p_id);
  return true;
end $$;

create or replace function app.record_accepted(
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
  perform app.end_probe(account_id)
  from app.provider_calls
  where id = p_call_id;
  if v_generation.cancel_requested_at is not null or v_generation.gave_up_at is not null
    or v_generation.finished_at is not null
  then
    perform app.add_task(
      'provider_call.cancel', jsonb_build_object('call_id', p_call_id), p_call_id::text, 0);
  end if;
  return app.record_running(v_generation.id, p_call_id);
end $$;

create or replace function app.replay_dead_letter(p_id uuid)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_letter app.dead_letters;
  v_task_id uuid;
begin
  if not app.is_admin() then
    raise exception 'admins only' using errcode = 'JS403', detail = '{"reason": "admin_required"}';
  end if;
  select *
  into v_letter
  from app.dead_letters
  where id = p_id
  for no key update;
  if not found then
    raise exception 'no such dead letter'
      using errcode = 'JS404', detail = '{"kind": "dead_letter"}';
  end if;
  if v_letter.replayed_as is not null then
    return v_letter.replayed_as;
  end if;
  v_task_id := app.add_task(
    v_letter.job, v_letter.args, coalesce(v_letter.dedupe_key, 'replay:' || p_id));
  update app.dead_letters
  set replayed_at = app.now(), replayed_as = v_task_id
  where id = p_id;
  perform app.write_audit(
    'dead_letter.replay', p_id::text, jsonb_build_object('job', v_letter.job));
  return v_task_id;
end $$;

create or replace function app.replay_stripe_events(
  p_ids text[], p_from timestamptz, p_to timestamptz, p_types text[], p_limit integer
)
  returns setof text
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_ids text[];
  v_id text;
begin
  if not app.is_admin() then
    raise exception 'admins only' using errcode = 'JS403', detail = '{"reason": "admin_required"}';
  end if;
  with chosen as (
    select id
    from app.stripe_events
    where (p_ids is null or id = any (p_ids))
      and (p_from is null or received_at >= p_from)
      and (p_to is null or received_at < p_to)
      and (p_types is null or type = any (p_types))
    order by received_at, id
    limit p_limit
    for update
  ), reset as (
    update app.stripe_events as event
    set handled_at = null, outcome = null, replays = replays + 1
    from chosen
    where event.id = chosen.id
    returning event.id
  )
  select array_agg(id) into v_ids from reset;
  foreach v_id in array coalesce(v_ids, '{}') loop
    perform app.add_task(
      'stripe_event.handle', jsonb_build_object('event_id', v_id), v_id);
    return next v_id;
  end loop;
  perform app.write_audit('stripe_events.replay', null, jsonb_build_object(
    'ids', p_ids, 'from', p_from, 'to', p_to, 'types', p_types,
    'count', coalesce(cardinality(v_ids), 0)));
end $$;

create or replace function app.request_order_sync(p_order_id uuid)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_order app.orders;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  select *
  into v_order
  from app.orders
  where id = p_order_id
    and user_id = v_user_id;
  if not found then
    raise exception 'no such order' using errcode = 'JS404', detail = '{"kind": "order"}';
  end if;
  if v_order.state not in ('created', 'open', 'processing', 'expired')
    or v_order.fetch_started_at > app.clock_now() - interval '1 second'
    or exists (
      select
      from app.outbox
      where job = 'payment.sync'
        and dedupe_key = p_order_id::text
        and failures <> '{}')
  then
    return;
  end if;
  perform app.add_task(
    'payment.sync', jsonb_build_object('order_id', p_order_id), p_order_id::text);
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
    select id, user_id
    from (
      (
        select id, user_id
        from app.generations
        where state in ('queued', 'submitting', 'running', 'collecting', 'uncertain')
          and give_up_at <= app.now()
          and (gave_up_at is null or state = 'queued' or deadline_at <= app.now())
        order by give_up_at
        limit p_limit
      )
      union
      (
        select id, user_id
        from app.generations
        where state = 'queued'
          and cancel_requested_at is not null
        limit p_limit
      )
    ) as due
    order by user_id, id
  loop
    perform app.lock_account(v_row.user_id);
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

create or replace function app.tasks_figures()
  returns table (name text, labels jsonb, value double precision)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select 'jewelshot_outbox_lag_seconds', '{}'::jsonb,
    coalesce(extract(epoch from app.now() - min(due_at)), 0)::double precision
  from app.outbox
  where due_at < app.now()
  union all
  select 'jewelshot_outbox_tasks', jsonb_build_object('job', job), count(*)
  from app.outbox
  group by job
  union all
  select 'jewelshot_dead_letters', '{}', count(*)
  from app.dead_letters
  where replayed_at is null
  union all
  select 'jewelshot_workers', '{}', count(*)
  from app.worker_heartbeats
  where seen_at > app.now() - interval '30 seconds'
  union all
  select counter.name, counter.labels, counter.value
  from app.metric_counters as counter
$$;

comment on function app.add_task is
$$Writes a task and returns its id; with a dedupe key at most one is live. One that is live is
wanted once more, at the earlier of both times: it runs again if it runs already, and is done only
when a claim has seen all that was wanted. With up to two seconds of delay it is woken, and the
relay waits that long for the wake-up; a task that is due later is not woken. To which queue it is
sent says its job (core/tasks/queues.py).
It belongs to the request that is being served, or to the one that its provider call serves.
Locks: the task, whose row others who add the same one wait for: so it comes last.$$;

comment on function app.note_wakeup is
$$Notes that a task should be woken when this transaction has been committed: in the setting
app.wakeups, which ends with the transaction, as `job:task` with spaces between; after 32 tasks
only their jobs' names. Who runs the transaction reads it with COMMIT and wakes afterwards.$$;

reset role;
revoke create on schema app from jewelshot_ledger;
