-- What is paid for is kept: one 404 of a request, one file that is missing or broken, is looked at
-- again, and each kind is counted by itself. Looks at abandoned calls have an end.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

alter table app.provider_calls
  add column unknown_polls integer not null default 0,
  add column broken_files integer not null default 0;

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

create or replace function app.cancel_generation(p_id uuid)
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

create or replace function app.receive_provider_webhook(p_call_id uuid, p_token text, p_request_id text)
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

create or replace function app.resume_running(
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

create or replace function app.take_for_probe(p_account_id uuid, p_lines text[])
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_line text;
  v_id uuid;
  v_rank integer;
  v_best_id uuid;
  v_best_rank integer := 3;
  v_taken uuid[] := '{}';
begin
  for v_look in 1..8 loop
    v_id := null;
    foreach v_line in array p_lines loop
      v_id := app.take_from_line(v_line);
      exit when v_id is not null;
    end loop;
    exit when v_id is null;
    v_taken := v_taken || v_id;
    update app.generations
    set line = null
    where id = v_id;
    select coalesce(max(1 + (call.generation_id = v_id)::integer), 0)
    into v_rank
    from app.generations as generation
    join app.provider_calls as call on call.user_id = generation.user_id
    where generation.id = v_id
      and call.account_id = p_account_id
      and call.state = 'refused'
      and call.http_status = 403
      and call.ended_at > app.now() - interval '1 hour';
    if v_rank < v_best_rank then
      v_best_id := v_id;
      v_best_rank := v_rank;
    end if;
    exit when v_rank = 0;
  end loop;
  update app.generations
  set available_at = available_at  -- chooses and joins the line again
  where id = any (v_taken);
  return v_best_id;
end $$;

comment on function app.cancel_generation is
$$Free until a step is delivered; then its stated share is charged (app.cancel_share). While a call
runs it is a request to the provider, and money moves on the end that is verified. Returns the change. Locks: account, reservation, lots, generation.
Errors: JS401, JS404, JS409 {reason: already_finished, state}.
Replay: a generation that was cancelled, or is asked to be, answers as it is: the provider is asked
once.$$;

comment on function app.receive_provider_webhook is
$$A verified webhook that a call ended: it may overtake the submit's answer, and the token names
the call. One that the provider did not know before is there after all. Makes sure that one collect task exists and returns its id, or null when
the call has ended. Locks: generation, call. Errors: JS404 for an unknown call or wrong token.$$;

comment on function app.sweep_calls is
$$Calls whose worker vanished in the middle of the POST become ambiguous; ambiguous calls past
their grace free the slot, and their generation is submitted once more, counted, if it may, or
ends cancelled, if that was asked for.
A call that outlives its generation's deadline frees its slot; we go on listening.
Locks: generation, call. Returns the changes.$$;

comment on function app.take_for_probe is
$$The order whose answer decides about an account: not one that was refused there itself in the last
hour, nor one of such a person, if among the next eight is another. Null when nobody waits.
Locks: lines and generations by skip locked.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant update (broken_files) on app.provider_calls to jewelshot_worker;

grant update (unknown_polls) on app.provider_calls to jewelshot_worker;
