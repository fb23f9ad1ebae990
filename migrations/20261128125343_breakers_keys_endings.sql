-- One incident is one pause: only a submit's answer opens a breaker, only the probe's ends or
-- lengthens it. A key that is refused is shut by itself. A failure says what happened.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

alter table app.provider_accounts
  add column breaker_closed_at timestamptz,
  add column probe_call_id uuid,
  add column looks_paused_until timestamptz;
alter table app.provider_keys
  add column refused_at timestamptz,
  add column probe_at timestamptz,
  add constraint provider_keys_refused check ((refused_at is null) = (probe_at is null));
create index provider_calls_refused on app.provider_calls (account_id, ended_at)
  where state = 'refused' and http_status = 403;

alter table app.generations drop constraint generations_ending;
alter table app.generations add constraint generations_ending check (ending in (
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

drop function app.open_breaker(uuid, double precision, text);
drop function app.begin_probe(uuid, double precision);
drop function app.end_probe(uuid);

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.begin_probe(
  p_account_id uuid, p_call_id uuid, p_lease_seconds double precision
)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.provider_accounts
  set breaker_state = 'half_open',
    breaker_until = app.now() + make_interval(secs => p_lease_seconds),
    probe_call_id = p_call_id
  where id = p_account_id
$$;

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

create or replace function app.close_breaker(p_account_id uuid, p_reason text)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_account app.provider_accounts;
  v_keys text[];
begin
  if not app.is_admin() then
    raise exception 'admins only' using errcode = 'JS403', detail = '{"reason": "admin_required"}';
  end if;
  select *
  into v_account
  from app.provider_accounts
  where id = p_account_id
  for no key update;
  if not found then
    raise exception 'no such provider account'
      using errcode = 'JS404', detail = '{"kind": "provider_account"}';
  end if;
  with tried as (
    update app.provider_keys
    set probe_at = app.now()
    where account_id = p_account_id
      and refused_at is not null
      and probe_at > app.now()
    returning name
  )
  select array_agg(name order by name)
  into v_keys
  from tried;
  if v_account.breaker_state = 'closed' and v_keys is null then
    return;
  end if;
  update app.provider_accounts
  set breaker_state = 'closed',
    breaker_until = null,
    breaker_reason = null,
    breaker_failures = 0,
    breaker_closed_at = app.clock_now(),
    probe_call_id = null
  where id = p_account_id
    and breaker_state <> 'closed';
  perform app.write_audit('provider_account.close_breaker', p_account_id::text, jsonb_build_object(
    'reason', p_reason,
    'account', v_account.name,
    'breaker_state', v_account.breaker_state,
    'breaker_reason', v_account.breaker_reason,
    'keys_tried_again', coalesce(v_keys, '{}')));
end $$;

create or replace function app.drop_probe(p_call_id uuid, p_pause_seconds double precision)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.provider_accounts as account
  set breaker_state = 'open',
    breaker_until = app.now() + make_interval(secs => p_pause_seconds),
    probe_call_id = null
  from app.provider_calls as call
  where call.id = p_call_id
    and account.id = call.account_id
    and account.breaker_state = 'half_open'
    and account.probe_call_id = p_call_id
$$;

create or replace function app.end_probe(p_call_id uuid)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.provider_keys as key
  set refused_at = null, probe_at = null
  from app.provider_calls as call
  where call.id = p_call_id
    and key.fingerprint = call.key_fingerprint
    and key.refused_at is not null
    and call.created_at > key.refused_at;
  update app.provider_accounts as account
  set breaker_state = 'closed',
    breaker_until = null,
    breaker_reason = null,
    breaker_failures = 0,
    breaker_closed_at = app.clock_now(),
    probe_call_id = null
  from app.provider_calls as call
  where call.id = p_call_id
    and account.id = call.account_id
    and account.breaker_state = 'half_open'
    and account.probe_call_id = p_call_id
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

create or replace function app.has_passed(
  p_account_id uuid, p_since timestamptz, p_besides_generation_id uuid
)
  returns boolean
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select
    from app.provider_calls
    where account_id = p_account_id
      and ended_at is null
      and accepted_at > p_since
      and generation_id <> p_besides_generation_id)
  or exists (
    select
    from app.provider_calls
    where account_id = p_account_id
      and ended_at > p_since
      and accepted_at > p_since
      and generation_id <> p_besides_generation_id)
$$;

create or replace function app.open_breaker(
  p_account_id uuid, p_call_id uuid, p_pause_seconds double precision, p_reason text,
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
    breaker_failures = account.breaker_failures + 1,
    probe_call_id = null
  from app.provider_calls as call
  where account.id = p_account_id
    and call.id = p_call_id
    and case account.breaker_state
      when 'closed' then call.created_at > coalesce(account.breaker_closed_at, '-infinity')
      when 'half_open' then account.probe_call_id = p_call_id
      else false end
  returning account.name, account.breaker_failures
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

create or replace function app.pause_looks(p_account_id uuid, p_pause_seconds double precision)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.provider_accounts
  set looks_paused_until =
    greatest(looks_paused_until, app.now() + make_interval(secs => p_pause_seconds))
  where id = p_account_id
$$;

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
  perform app.end_probe(p_call_id);
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
  perform app.end_probe(p_call_id);
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
  perform app.drop_probe(p_call_id, 5);
  update app.generations
  set state = 'uncertain'
  where id = v_generation.id
    and current_call_id = p_call_id
    and state = 'submitting'
  returning * into v_generation;
  return case when found then app.generation_change(v_generation) end;
end $$;

create or replace function app.refuse_key(p_call_id uuid)
  returns text
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  -- An operator changes a key within minutes; each try costs somebody one round trip.
  update app.provider_keys as key
  set refused_at = coalesce(key.refused_at, app.clock_now()),
    probe_at = app.now() + interval '10 minutes'
  from app.provider_calls as call
  where call.id = p_call_id
    and key.fingerprint = call.key_fingerprint
  returning key.name
$$;

create or replace function app.take_key(p_account_id uuid, p_fingerprints text[], p_for_probe boolean)
  returns text
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.provider_keys
  set last_used_at = app.clock_now(),
    probe_at = case when refused_at is not null then app.now() + interval '10 minutes' end
  where fingerprint = (
    select fingerprint
    from app.provider_keys
    where account_id = p_account_id
      and fingerprint = any (p_fingerprints)
      and (refused_at is null or probe_at <= app.now())
    order by (refused_at is null) = p_for_probe desc, last_used_at nulls first, fingerprint
    limit 1
  )
  returning fingerprint
$$;

create or replace function app.whose_refusal(p_call_id uuid)
  returns text
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when app.has_passed(
      call.account_id, greatest(own.generation_at, others.refused_at), call.generation_id)
      and own.generation_at is not null then 'generation'
    when app.has_passed(
      call.account_id, greatest(own.person_at, others.refused_at), call.generation_id)
      and own.person_at is not null and own.generation_at is null then 'person'
    else 'account' end
  from app.provider_calls as call
  cross join lateral (
    select min(ended_at) as person_at,
      min(ended_at) filter (where generation_id = call.generation_id) as generation_at
    from app.provider_calls
    where account_id = call.account_id
      and state = 'refused'
      and http_status = 403
      and ended_at > app.now() - interval '1 hour'
      and user_id = call.user_id
      and id <> call.id
  ) as own
  cross join lateral (
    select max(ended_at) as refused_at
    from app.provider_calls
    where account_id = call.account_id
      and state = 'refused'
      and http_status = 403
      and ended_at > app.now() - interval '1 hour'
      and user_id <> call.user_id
  ) as others
  where call.id = p_call_id
$$;

comment on function app.begin_probe is
$$This call of an account whose breaker is open decides; there is no other until it is answered or
its lease is over. Locks: the account.$$;

comment on function app.close_breaker is
$$An admin knows that the account works again: its breaker closes, and its refused keys are tried at
once. Audited where something changed. Locks: the account, its keys. Errors: JS403, JS404.
Replay: a closed one stays closed, without a second line.$$;

comment on function app.cool_down is
$$A rate limit of submits. The later of two wins, so a slow answer cannot shorten a newer one.
Locks: the account.$$;

comment on function app.drop_probe is
$$This call told nothing about its account: nobody answered, or about something else. If it is the
probe, another follows after the pause. Locks: the account.$$;

comment on function app.end_probe is
$$The provider took this call: if it is the probe, the breaker closes; if its key was refused
before, it is used again. Locks: the key, the account.$$;

comment on function app.has_passed is
$$Whether the account has taken a call of another generation since then.$$;

comment on function app.open_breaker is
$$The provider refused this submit for its account: locked, or without a balance. Counts only while
the breaker is closed, for a call that was opened after it closed last; while it is half open, only
for the probe, whose refusal doubles the pause, at most 64 times. Returns the account's name and the
number of refusals that counted, or nulls when this one did not. Locks: the account.$$;

comment on function app.open_calls is
$$Up to p_limit calls for the keys a process holds, as app.call_intent. No slot, no healthy account
or no usable key of one: none. An account whose breaker is open gets one probe when its pause is
over, before any other account is served.
Locks: the provider accounts of the keys by ascending id (two processes that served them in the
order of their load would wait for each other), then generations by skip locked.
Replay: a call whose intent was lost is found by the sweep by its expired lease.$$;

comment on function app.pause_looks is
$$A rate limit of polls and results: they pause, submits go on. The later of two wins.
Locks: the account.$$;

comment on function app.refuse_key is
$$The provider does not know the key of this submit: it is not used but for one try every ten
minutes. The account goes on with its other keys. Returns the key's name. Locks: the key.$$;

comment on function app.take_key is
$$The key of an account for the next call, of those that the process holds: the one that was used
longest ago, and never one that was refused, unless it is due to be tried again: then it comes first,
but for the probe of an account, which is not to be told about a key. Null when there is none.
Locks: the key.$$;

comment on function app.whose_refusal is
$$Whom a 403 speaks of. The `account`, unless since an earlier one of the same generation or person
it has taken another generation's call, and refused nobody else after that: then of the `generation`,
at its second, or of the `person`, at the first of another one of theirs. Nobody passed since: the
account, so that a lock that comes back when only one person orders is seen.
Source: one note says that the words for a locked account also come for refused content.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function app.close_breaker(uuid,text) to jewelshot_admin;

grant execute on function app.drop_probe(uuid,double precision) to jewelshot_worker;

grant execute on function app.end_probe(uuid) to jewelshot_worker;

grant execute on function app.open_breaker(uuid,uuid,double precision,text) to jewelshot_worker;

grant execute on function app.pause_looks(uuid,double precision) to jewelshot_worker;

grant execute on function app.refuse_key(uuid) to jewelshot_worker;

grant execute on function app.whose_refusal(uuid) to jewelshot_worker;
