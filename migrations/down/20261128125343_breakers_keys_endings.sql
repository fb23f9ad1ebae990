-- Way back of breakers, keys and endings.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

drop function app.begin_probe(uuid,uuid,double precision);

drop function app.close_breaker(uuid,text);

drop function app.drop_probe(uuid,double precision);

drop function app.end_probe(uuid);

drop function app.has_passed(uuid,timestamp with time zone,uuid);

drop function app.open_breaker(uuid,uuid,double precision,text);

drop function app.pause_looks(uuid,double precision);

drop function app.refuse_key(uuid);

drop function app.take_key(uuid,text[],boolean);

drop function app.whose_refusal(uuid);

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

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
      and coalesce(account.cooldown_until, app.now()) <= app.now(),
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
    (breaker_state <> 'closed')::integer
  from app.provider_accounts as account
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
      from app.provider_accounts
      where breaker_state = 'closed'),
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
    order by used.held::numeric / account.slots, account.id
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
      update app.provider_keys
      set last_used_at = app.clock_now()
      where fingerprint = (
        select fingerprint
        from app.provider_keys
        where account_id = v_account.id
          and fingerprint = any (p_fingerprints)
        order by last_used_at nulls first, fingerprint
        limit 1
      )
      returning fingerprint into v_key;
      insert into app.user_turns (user_id, last_served_at)
      values (v_next.user_id, app.clock_now())
      on conflict (user_id) do update
      set last_served_at = excluded.last_served_at;
      return next app.open_call(v_next.generation_id, v_account.id, v_key, p_lease_seconds);
      v_free := v_free - 1;
      v_left := v_left - 1;
      if v_account.breaker_state <> 'closed' then
        perform app.begin_probe(v_account.id, p_lease_seconds);
      end if;
    end loop;
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

create or replace function app.record_ambiguous(
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
  update app.generations
  set state = 'uncertain'
  where id = v_generation.id
    and current_call_id = p_call_id
    and state = 'submitting'
  returning * into v_generation;
  return case when found then app.generation_change(v_generation) end;
end $$;

comment on function app.cool_down is
$$A rate limit of the account. The later of two wins, so a slow answer cannot shorten a newer one.
Locks: the account.$$;

comment on function app.open_calls is
$$Up to p_limit calls for the keys a process holds, as app.call_intent. No slot or no healthy
account: none. An account whose breaker is open gets one probe when its pause is over.
Locks: the provider accounts of the keys by ascending id (two processes that served them in the
order of their load would wait for each other), then generations by skip locked.
Replay: a call whose intent was lost is found by the sweep by its expired lease.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

alter table app.generations drop constraint generations_ending;
update app.generations set ending = 'provider_failed' where ending = 'provider_failed_once';
update app.generations
set ending = 'input_refused'
where ending in ('photo_too_small', 'photo_too_large', 'photo_file_too_large', 'photo_format',
  'photo_unreadable', 'photo_not_fetched', 'face_not_found', 'params_refused', 'request_refused',
  'model_missing');
alter table app.generations add constraint generations_ending check (ending in (
    'cancelled', 'content_refused', 'input_refused', 'provider_failed', 'no_image',
    'not_started_in_time', 'deadline_exceeded', 'photo_missing', 'params_invalid',
    'delivery_failed', 'output_broken', 'output_flagged', 'output_bad_parameters',
    'output_empty_output', 'output_too_many_bytes', 'output_wrong_type', 'output_undecodable',
    'output_absurd_size', 'output_blank', 'output_aspect_changed', 'output_not_enlarged',
    'output_no_alpha', 'output_size_mismatch', 'output_nothing_found',
    'output_background_not_found'));

drop index app.provider_calls_refused;
alter table app.provider_keys
  drop constraint provider_keys_refused,
  drop column probe_at,
  drop column refused_at;
alter table app.provider_accounts
  drop column looks_paused_until,
  drop column probe_call_id,
  drop column breaker_closed_at;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.open_breaker(
  p_account_id uuid, p_pause_seconds double precision, p_reason text,
  out name text, out failures integer
)
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.provider_accounts as account
  set breaker_state = 'open',
    breaker_until = app.now()
      + make_interval(secs => p_pause_seconds * power(2, least(account.breaker_failures, 6))),
    breaker_reason = left(p_reason, 500),
    breaker_failures = account.breaker_failures + 1
  where account.id = p_account_id
  returning account.name, account.breaker_failures
$$;
comment on function app.open_breaker is
$$The provider refused the account: its key or its balance. Each refusal in a row doubles the
pause, at most 64 times. Returns the account's name and how many refusals in a row there were.
Locks: the account.$$;

create function app.begin_probe(p_account_id uuid, p_lease_seconds double precision)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.provider_accounts
  set breaker_state = 'half_open',
    breaker_until = app.now() + make_interval(secs => p_lease_seconds)
  where id = p_account_id
$$;
comment on function app.begin_probe is
$$One call of an account whose breaker is open is under way; no other until it is answered or its
lease is over. Locks: the account.$$;

create function app.end_probe(p_account_id uuid)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.provider_accounts
  set breaker_state = 'closed', breaker_until = null, breaker_reason = null, breaker_failures = 0
  where id = p_account_id
    and breaker_state = 'half_open'
$$;
comment on function app.end_probe is
$$The provider took a call of the account: a probe has its answer. Locks: the account.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function app.open_breaker(uuid, double precision, text) to jewelshot_worker;
