-- A generation is one paid run of one operation and delivers one image.
-- after: base, people, events, credits, tasks, catalog, uploads, lines, limits

create table app.generations (
  id uuid primary key,
  user_id uuid not null references app.users (id) on delete restrict,
  upload_id uuid not null references app.uploads (id) on delete restrict,
  operation text not null,
  operation_version integer not null,
  lane text not null,
  cost_credits bigint not null,
  charged_credits bigint,  -- what of it was charged in the end
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
  available_at timestamptz not null default app.now(),
  -- Of the two clocks, waiting and working, the first is wait_until, the second the next two.
  wait_until timestamptz,
  started_at timestamptz,  -- when a call was accepted first, or may have been
  give_up_at timestamptz,
  deadline_at timestamptz,
  held_at timestamptz,  -- its batch is paused, or was never approved: it is in no line
  wait_left interval,  -- of wait_until, while it is held
  line text,  -- in which its owner waits for a ticket for it
  line_no bigint,  -- its place among its owner's waiting ones; null once it has had a turn
  cancel_requested_at timestamptz,
  gave_up_at timestamptz,
  result jsonb,
  result_held_at timestamptz,  -- a legal hold: its files are erased by nobody
  ending text,  -- why there is no image; the words for it are not the database's
  request_id text,
  created_at timestamptz not null default app.now(),
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
  constraint generations_ended_without_image check (
    (state in ('failed', 'cancelled')) = (ending is not null)),
  constraint generations_ending check (ending in (
    'cancelled', 'content_refused', 'input_refused', 'photo_too_small', 'photo_too_large',
    'photo_file_too_large', 'photo_format', 'photo_unreadable', 'photo_not_fetched',
    'face_not_found', 'params_refused', 'request_refused', 'model_missing', 'provider_failed',
    'provider_failed_once', 'no_image', 'waited_too_long',
    'not_started_in_time', 'deadline_exceeded', 'photo_missing', 'params_invalid',
    'delivery_failed', 'output_broken', 'output_flagged', 'output_bad_parameters',
    'output_empty_output', 'output_too_many_bytes', 'output_wrong_type', 'output_undecodable',
    'output_absurd_size', 'output_blank', 'output_aspect_changed', 'output_not_enlarged',
    'output_no_alpha', 'output_size_mismatch', 'output_nothing_found',
    'output_background_not_found')),
  constraint generations_wait_left check ((held_at is null) = (wait_left is null)),
  constraint generations_one_clock check (
    finished_at is not null
    or (num_nonnulls(wait_until, deadline_at, held_at) = 1
      and (started_at is null) = (deadline_at is null)
      and (give_up_at is null) = (deadline_at is null))),
  constraint generations_line check (line is null or (state = 'queued' and held_at is null))
);
create index generations_user on app.generations (user_id, created_at desc, id desc);
create index generations_upload_id on app.generations (upload_id);
create index generations_retry_of on app.generations (retry_of);
create index generations_operation on app.generations (operation, operation_version);
-- A person's next one in a line: what has had a turn when its pause is over, then by number.
create index generations_line_again on app.generations (line, user_id, available_at)
  where line is not null and line_no is null;
create index generations_line_next on app.generations (line, user_id, line_no, id)
  where line is not null and line_no is not null;
-- By the clock that runs.
create index generations_open on app.generations (coalesce(give_up_at, wait_until))
  where state in ('queued', 'submitting', 'running', 'collecting', 'uncertain');
create index generations_cancelled_in_queue on app.generations (id)
  where state = 'queued' and cancel_requested_at is not null;
create index generations_finished on app.generations (finished_at) where finished_at is not null;

-- How long the last runs of an operation took, from the provider's yes to the image.
create table app.run_figures (
  operation text not null,
  version integer not null,
  run_seconds double precision not null,  -- half of them took less
  refreshed_at timestamptz not null,
  primary key (operation, version),
  foreign key (operation, version) references app.operations (slug, version) on delete cascade
);

alter table app.generations enable row level security;
alter table app.generations force row level security;
alter table app.run_figures enable row level security;
alter table app.run_figures force row level security;

revoke all on app.generations, app.run_figures from public, anon, authenticated, service_role;

grant select, insert, update on app.generations, app.run_figures to jewelshot_ledger;
grant select on app.generations to jewelshot_user, jewelshot_worker, jewelshot_admin;
grant select on app.run_figures to jewelshot_worker, jewelshot_admin;

create policy generations_writer on app.generations to jewelshot_ledger
  using (true) with check (true);
create policy generations_own on app.generations for select to jewelshot_user
  using (user_id = (select app.current_user_id()));
create policy generations_worker on app.generations for select to jewelshot_worker using (true);
create policy generations_admin on app.generations for select to jewelshot_admin
  using ((select app.is_admin()));
create policy run_figures_writer on app.run_figures to jewelshot_ledger
  using (true) with check (true);
create policy run_figures_worker on app.run_figures for select to jewelshot_worker using (true);
create policy run_figures_admin on app.run_figures for select to jewelshot_admin
  using ((select app.is_admin()));

create function app.guard_generation_state()
  returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
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
        'reason', 'wrong_state', 'state', old.state, 'wanted', new.state)::text;
  end if;
  if new.state <> old.state or new.cancel_requested_at is distinct from old.cancel_requested_at
  then
    new.version := old.version + 1;
  end if;
  return new;
end $$;
comment on function app.guard_generation_state is
$$The one place that decides which state may follow which. Each change raises the version and
leaves an event, in the transaction of the change.$$;

create function app.emit_generation_event()
  returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform app.emit(
    new.user_id,
    case
      when new.state in ('succeeded', 'failed', 'cancelled') then 'generation.' || new.state
      when tg_op = 'INSERT' then 'generation.created'
      else 'generation.changed' end,
    new.id,
    new.version,
    jsonb_strip_nulls(jsonb_build_object(
      'state', new.state,
      'operation', new.operation,
      'lane', new.lane,
      'cost_credits', new.cost_credits,
      'charged_credits', new.charged_credits,
      'step', new.step,
      'code', new.ending,
      'retry_of', new.retry_of)));
  return null;
end $$;
comment on function app.emit_generation_event is
$$Trigger: one event for each state that a generation reaches. One that is made and at its end at
once (a late image that is bought) has its end only.$$;

create function app.generation_change(p_generation app.generations)
  returns jsonb
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'generation_id', p_generation.id,
    'user_id', p_generation.user_id,
    'state', p_generation.state,
    'version', p_generation.version)
$$;
comment on function app.generation_change is
$$What a generation is now, for the change feed.$$;

create function app.generation_operation(p_id uuid)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select operation
  from app.generations
  where id = p_id
$$;
comment on function app.generation_operation is
$$What money was spent on, for who reads the ledger: null where the subject is no generation, or
one that may not be seen.$$;

create function app.cancel_share(p_generation app.generations)
  returns bigint
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce((
    select cancel_credits[least(p_generation.step, cardinality(cancel_credits))]
    from app.operations
    where slug = p_generation.operation
      and version = p_generation.operation_version), 0)
$$;
comment on function app.cancel_share is
$$What cancelling costs after the steps that were delivered, by the terms it was started under.$$;

create function app.latest_end(p_generation app.generations)
  returns timestamptz
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return coalesce(
    p_generation.deadline_at,
    p_generation.wait_until + (
      select make_interval(secs => deadline_seconds)
      from app.operations
      where slug = p_generation.operation
        and version = p_generation.operation_version),
    p_generation.finished_at);
end $$;
comment on function app.latest_end is
$$When a generation has ended at the latest: its deadline, or, while it waits, the deadline that it
would have if it began at the last moment. It only ever comes earlier. Null while it is held.$$;

create function app.start_working_clock()
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
comment on function app.start_working_clock is
$$Trigger, when a call was accepted or may have been for the first time: the waiting clock stops and
the working clock begins, over all steps and attempts.$$;

create function app.choose_line()
  returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
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
comment on function app.choose_line is
$$Trigger: what is queued and neither held nor cancelled waits in a line, and nothing else does. The
line names the provider of the next step, so that nobody waits behind work for another one's slots.
A new generation is numbered behind its owner's others unless it brings a number; one that has had
its turn, or may not be served yet, has none.$$;

create function app.join_line_of_generation()
  returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform app.join_line(new.line, new.user_id, new.available_at, new.line_no, new.line_no);
  return null;
end $$;
comment on function app.join_line_of_generation is
$$Trigger, after the row: its owner waits in its line. Locks: the line's row.$$;

create function app.join_line_of_new_generations()
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
comment on function app.join_line_of_new_generations is
$$Trigger, after an insert of any number of rows: their owners wait in their lines.
Locks: the lines' rows in their order.$$;

create function app.start_answer(p_generation app.generations)
  returns jsonb
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return jsonb_build_object(
    'version', p_generation.version,
    'operation_version', p_generation.operation_version,
    'lane', p_generation.lane,
    'cost_credits', p_generation.cost_credits,
    'created_at', p_generation.created_at,
    'wait_until', p_generation.wait_until,
    'deadline_at', app.latest_end(p_generation),
    'outlook', app.outlook_of(p_generation));
end $$;
comment on function app.start_answer is
$$The terms under which a generation was taken, and its outlook.$$;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.outlook_of(p_generation app.generations)
  returns jsonb
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
  set enable_bitmapscan = off
as $$
declare
  v_run_seconds double precision;
  v_turns bigint;
  v_turn_seconds double precision;
begin
  if p_generation.finished_at is not null or p_generation.held_at is not null then
    return null;
  end if;
  select
    coalesce(run.run_seconds, (
      select sum((step ->> 'typical_seconds')::double precision)
      from jsonb_array_elements(operation.steps) as step)),
    greatest(1, p_generation.line_no - place.first_no + 1) * greatest(1, figures.keys),
    figures.seconds_per_turn
  into v_run_seconds, v_turns, v_turn_seconds
  from app.operations as operation
  left join app.run_figures as run
    on run.operation = operation.slug and run.version = operation.version
  left join app.lines as place
    on place.line = p_generation.line and place.key = p_generation.user_id
  left join app.line_figures as figures on figures.line = p_generation.line
  where operation.slug = p_generation.operation
    and operation.version = p_generation.operation_version;
  if p_generation.line is null then
    return jsonb_build_object(
      'expected_at', greatest(
        app.now(),
        coalesce(p_generation.started_at, app.now()) + make_interval(secs => v_run_seconds)));
  end if;
  return jsonb_build_object(
    'place_in_line', v_turns,
    'expected_at',
      app.now() + make_interval(secs => v_turns * v_turn_seconds + v_run_seconds));
end $$;
comment on function app.outlook_of is
$$What can be said of a generation that has not ended: {place_in_line, expected_at}, both about. The
place is its own among its owner's, times the people who wait, because people take turns; the time
is that of the place, at the line's present pace, and half of the last runs' own. expected_at is
null while nobody is served, and the whole for what is held or has ended. Counts nothing.$$;

create function app.generation_outlook(p_id uuid)
  returns jsonb
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select app.outlook_of(generation)
  from app.generations as generation
  where id = p_id
    and user_id = app.current_user_id()
$$;
comment on function app.generation_outlook is
$$app.outlook_of one of the caller's own generations.$$;

create function app.start_generation(
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
comment on function app.start_generation is
$$The one way for users to start: identity from the claims, price and times from the catalogue.
It waits in its line from now on. Adds the ticket, a task whose dedupe key is the generation's id,
which nobody else adds, so it may come after the line. Returns app.start_answer.
Locks: upload (shared), account, lots, line. Errors: JS401, JS402, JS404 {kind: operation|upload},
JS409 {reason: upload_not_ready, state}, JS422 {field: priority|params},
JS422 (app.require_possible: it could not succeed), JS429 (app.require_paid_work).
Replay: the same id and terms find themselves done.$$;

create function app.finish_generation(
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
  v_charged bigint;
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
            'cost_credits',
            v_generation.cost_credits - coalesce(v_generation.charged_credits, 0)));
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
  v_charged := case p_outcome
    when 'succeeded' then v_generation.cost_credits
    when 'cancelled' then app.cancel_share(v_generation)
    else 0 end;
  if p_outcome = 'succeeded' then
    perform app.confirm(v_generation.user_id, 'run', p_id);
  else
    perform app.refund(v_generation.user_id, 'run', p_id, v_charged);
  end if;
  update app.generations
  set state = p_outcome,
    charged_credits = v_charged,
    finished_at = app.clock_now(),
    result = case when p_outcome = 'succeeded' then p_facts -> 'result' end,
    ending = case when p_outcome <> 'succeeded' then p_facts ->> 'ending' end
  where id = p_id
  returning * into v_generation;
  return app.generation_change(v_generation) || '{"late": false}';
end $$;
comment on function app.finish_generation is
$$The end of the subject and the end of its money, as one statement to the database.
p_outcome: succeeded | failed | cancelled. p_facts: {call_id, call: {state, http_status, ...},
result: {...} when succeeded, ending otherwise}. Returns the change, with `late` true when the
generation had ended before: then no money moves, and an image that comes after a
refund is kept as a late image. Null when a call failed that the generation does not wait for:
only the call ends. Locks: account, reservation, lots, generation, call, task.
Errors: JS404, JS430 (lease lost). Replay: a lost lease, or `late`.$$;

create function app.cancel_generation(p_id uuid)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_generation app.generations;
begin
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
  if v_generation.cancel_requested_at is not null then
    return app.generation_change(v_generation);
  end if;
  update app.generations
  set cancel_requested_at = app.now()
  where id = p_id
  returning * into v_generation;
  perform app.add_task(
    'provider_call.cancel', jsonb_build_object('call_id', v_generation.current_call_id),
    v_generation.current_call_id::text);
  return app.generation_change(v_generation);
end $$;
comment on function app.cancel_generation is
$$Free until a step is delivered; then its stated share is charged (app.cancel_share). While a call
runs it is a request to the provider, and money moves on the end that is verified. Returns the change. Locks: account, reservation, lots, generation.
Errors: JS401, JS404, JS409 {reason: already_finished, state}.
Replay: a generation that was cancelled, or is asked to be, answers as it is: the provider is asked
once.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.generation_change(app.generations),
  app.start_answer(app.generations)
  to jewelshot_ledger;
grant execute on function app.latest_end(app.generations) to jewelshot_ledger, jewelshot_user;
grant execute on function app.generation_operation(uuid) to jewelshot_user, jewelshot_admin;
grant execute on function app.cancel_share(app.generations) to jewelshot_user, jewelshot_ledger;
grant execute on function
  app.generation_outlook(uuid),
  app.start_generation(uuid, text, uuid, jsonb, smallint, uuid),
  app.cancel_generation(uuid)
  to jewelshot_user;
grant execute on function app.finish_generation(uuid, uuid, text, jsonb) to jewelshot_worker;

-- In the order of their names: the clock, the state, the line.
create trigger generations_clock
  before update of state on app.generations
  for each row
  when (new.started_at is null and new.state in ('running', 'uncertain', 'collecting'))
  execute function app.start_working_clock();
create trigger generations_guard
  before update of state, cancel_requested_at on app.generations
  for each row execute function app.guard_generation_state();
create trigger generations_line
  before insert or update of state, held_at, cancel_requested_at, available_at
  on app.generations
  for each row when (new.state = 'queued' or new.line is not null)
  execute function app.choose_line();
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
create trigger generations_started
  after insert on app.generations
  for each row execute function app.emit_generation_event();
create trigger generations_changed
  after update of state on app.generations
  for each row when (new.state <> old.state) execute function app.emit_generation_event();

create function app.prove_generations()
  returns table (check_name text, table_name text, row_id text, detail jsonb)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set row_security = off
as $$
  select 'generation_money', 'generations', generation.id::text, jsonb_build_object(
    'state', generation.state, 'cost_credits', generation.cost_credits,
    'charged_credits', generation.charged_credits, 'reservation_state', reservation.state,
    'reservation_amount', reservation.amount, 'confirmed_amount', reservation.confirmed_amount)
  from app.generations as generation
  left join app.reservations as reservation
    on reservation.subject_id = generation.id and reservation.purpose = 'run'
  where reservation.user_id is distinct from generation.user_id
    or reservation.amount is distinct from generation.cost_credits
    or reservation.confirmed_amount is distinct from case generation.state
      when 'succeeded' then generation.cost_credits when 'failed' then 0
      when 'cancelled' then app.cancel_share(generation) end
    or generation.charged_credits is distinct from reservation.confirmed_amount

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
  group by generation.line, generation.user_id, place.serve_at, place.first_no
  having coalesce(
      place.serve_at > greatest(min(generation.available_at), app.now()) + interval '1 minute',
      true)
    or place.first_no > min(generation.line_no)
$$;
comment on function app.prove_generations is
$$The end of a generation and the end of its money are the same event, none is overdue by the clock
that runs, and whoever has one that waits for a ticket has a place in its line.
Owned by the migrating role, which bypasses row level security; row_security = off makes a role
that would be filtered raise instead of seeing nothing.$$;

grant execute on function app.prove_generations() to jewelshot_worker;
