-- Which accounts and keys the provider refuses, as answers to submits tell.
-- after: providers, pipeline, audit

-- The breaker of an account, as a whole: `closed` → `open` by a submit that was refused
-- (open_breaker); when breaker_until has passed, one call is let through, which is the probe
-- (`half_open`, begin_probe). The provider takes the probe and it is `closed` again (end_probe), or
-- refuses it and it is `open` for twice as long, or does neither and there is another probe soon
-- (drop_probe). All other answers, of polls and results too, neither open nor lengthen it: one
-- incident is one pause, however many calls it meets.

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.open_breaker(
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
comment on function app.open_breaker is
$$The provider refused this submit for its account: locked, or without a balance. Counts only while
the breaker is closed, for a call that was opened after it closed last; while it is half open, only
for the probe, whose refusal doubles the pause, at most 64 times. Returns the account's name and the
number of refusals that counted, or nulls when this one did not. Locks: the account.$$;

create function app.begin_probe(
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
comment on function app.begin_probe is
$$This call of an account whose breaker is open decides; there is no other until it is answered or
its lease is over. Locks: the account.$$;

create function app.end_probe(p_call_id uuid)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
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
    and account.probe_call_id = p_call_id;
  update app.provider_keys as key
  set refused_at = null, probe_at = null
  from app.provider_calls as call
  where call.id = p_call_id
    and key.fingerprint = call.key_fingerprint
    and key.refused_at is not null
    and call.created_at > key.refused_at
$$;
comment on function app.end_probe is
$$The provider took this call: if it is the probe, the breaker closes; if its key was refused
before, it is used again. Locks: the account, the key.$$;

create function app.drop_probe(p_call_id uuid, p_pause_seconds double precision)
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
comment on function app.drop_probe is
$$This call told nothing about its account: nobody answered, or about something else. If it is the
probe, another follows after the pause. Locks: the account.$$;

create function app.refuse_key(p_call_id uuid)
  returns text
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  -- A stray refusal passes within seconds. After the first try take_key says when the next one is;
  -- what was on its way when the key was refused moves nothing.
  update app.provider_keys as key
  set refused_at = coalesce(key.refused_at, app.clock_now()),
    probe_at = coalesce(key.probe_at, app.now() + interval '15 seconds')
  from app.provider_calls as call
  where call.id = p_call_id
    and key.fingerprint = call.key_fingerprint
  returning key.name
$$;
comment on function app.refuse_key is
$$The provider does not know the key of this submit: it is not used but for one try after 15 seconds,
and then after as long as it has been refused, ten minutes at most. The account goes on with its other keys. Returns the key's name. Locks: the key.$$;

create function app.take_key(p_account_id uuid, p_fingerprints text[], p_for_probe boolean)
  returns text
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.provider_keys
  set last_used_at = app.clock_now(),
    held_at = app.now(),
    -- An operator changes a key within minutes, and each try costs somebody one round trip: so the
    -- pause is as long as the key has been refused already.
    probe_at = case when refused_at is not null then app.now() + greatest(
      interval '15 seconds', least(interval '10 minutes', app.now() - refused_at)) end
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
comment on function app.take_key is
$$The key of an account for the next call, of those that the process holds: the one that was used
longest ago, and never one that was refused, unless it is due to be tried again: then it comes first,
but for the probe of an account, which is not to be told about a key. Null when there is none.
Locks: the key.$$;

create function app.take_for_probe(p_account_id uuid, p_lines text[])
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
comment on function app.take_for_probe is
$$The order whose answer decides about an account: not one that was refused there itself in the last
hour, nor one of such a person, if among the next eight is another. Null when nobody waits.
Locks: lines and generations by skip locked.$$;

create function app.close_breaker(p_account_id uuid, p_reason text)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_account app.provider_accounts;
  v_keys text[];
begin
  perform app.require_admin();
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
comment on function app.close_breaker is
$$An admin knows that the account works again: its breaker closes, and its refused keys are tried at
once. Audited where something changed. Locks: the account, its keys. Errors: JS403, JS404.
Replay: a closed one stays closed, without a second line.$$;

create function app.has_passed(
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
comment on function app.has_passed is
$$Whether the account has taken a call of another generation since then.$$;

create function app.whose_refusal(p_call_id uuid)
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
    when app.has_passed(
      call.account_id, greatest(elsewhere.refused_at - interval '1 minute', others.refused_at),
      call.generation_id)
      and elsewhere.refused_at is not null and own.generation_at is null then 'person'
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
  cross join lateral (
    select max(ended_at) as refused_at
    from app.provider_calls
    where generation_id = call.generation_id
      and account_id <> call.account_id
      and state = 'refused'
      and http_status = 403
      and ended_at > app.now() - interval '1 hour'
  ) as elsewhere
  where call.id = p_call_id
$$;
comment on function app.whose_refusal is
$$Whom a 403 speaks of. The `account`, unless since an earlier one of the same generation or person
it has taken another generation's call, and refused nobody else after that: then of the `generation`,
at its second, or of the `person`, at the first of another one of theirs. Also of the person, where
another account has refused the generation just before, and this one took others until then: else one
order would shut one account after the other. Nobody passed since: the account, so that a lock that
comes back when only one person orders is seen.
Source: one note says that the words for a locked account also come for refused content.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.open_breaker(uuid, uuid, double precision, text),
  app.end_probe(uuid),
  app.drop_probe(uuid, double precision),
  app.refuse_key(uuid),
  app.whose_refusal(uuid)
  to jewelshot_worker;
grant execute on function app.close_breaker(uuid, text) to jewelshot_admin;
