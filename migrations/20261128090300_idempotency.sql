-- Answers of requests that carry an idempotency key, kept for 24 hours.

create table app.idempotency_keys (
  user_id uuid not null,
  route text not null,
  key text not null,
  body_sha256 bytea not null,
  status integer not null,
  response jsonb not null,
  created_at timestamptz not null default app.now(),
  expires_at timestamptz not null default app.now() + interval '24 hours',
  primary key (user_id, route, key),
  constraint idempotency_keys_key_length check (length(key) between 1 and 255)
);
create index idempotency_keys_expires_at on app.idempotency_keys (expires_at);

alter table app.idempotency_keys enable row level security;
alter table app.idempotency_keys force row level security;

revoke all on app.idempotency_keys from public, anon, authenticated, service_role;

grant select, insert, delete on app.idempotency_keys to jewelshot_ledger;
grant select, delete on app.idempotency_keys to jewelshot_worker;

create policy idempotency_keys_writer on app.idempotency_keys to jewelshot_ledger
  using (true) with check (true);
create policy idempotency_keys_worker on app.idempotency_keys to jewelshot_worker using (true);

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.idempotency_user_id()
  returns uuid
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case when app.claims() ->> 'break_glass' = 'true'
    then '00000000-0000-0000-0000-000000000000' else app.current_user_id() end
$$;
comment on function app.idempotency_user_id is
$$Whose key it is: a person's or an admin's, who may have no account; the nil UUID stands for the
break-glass key.$$;

create function app.idempotency_begin(p_route text, p_key text, p_body_sha256 bytea)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.idempotency_user_id();
  v_stored app.idempotency_keys;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  for v_look in 1..2 loop
    select *
    into v_stored
    from app.idempotency_keys
    where user_id = v_user_id
      and route = p_route
      and key = p_key
      and expires_at > app.now();
    exit when found or v_look = 2;
    if not pg_try_advisory_xact_lock(
      hashtextextended(v_user_id || ' ' || p_route || ' ' || p_key, 0))
    then
      raise exception 'the same request is being executed'
        using errcode = 'JS431', detail = '{"retry_after_seconds": 1}';
    end if;
    -- The holder of the lock may have committed since the first read.
  end loop;
  if v_stored.user_id is null then
    return null;
  end if;
  if v_stored.body_sha256 <> p_body_sha256 then
    raise exception 'idempotency key used with another body' using errcode = 'JS432';
  end if;
  return jsonb_build_object('status', v_stored.status, 'response', v_stored.response);
end $$;
comment on function app.idempotency_begin is
$$What an earlier request with this key answered, or null: then the caller holds the key until
its transaction ends. An answer that exists is read without the lock, so that requests that
were answered 409 do not refuse each other. Locks: one advisory lock, tried, never waited
for. Errors: JS401, JS431 (being executed now), JS432 (another body).$$;

create function app.idempotency_store(
  p_route text, p_key text, p_body_sha256 bytea, p_status integer, p_response jsonb
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.idempotency_user_id();
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  delete from app.idempotency_keys
  where user_id = v_user_id
    and route = p_route
    and key = p_key
    and expires_at <= app.now();
  insert into app.idempotency_keys (user_id, route, key, body_sha256, status, response)
  values (v_user_id, p_route, p_key, p_body_sha256, p_status, p_response);
end $$;
comment on function app.idempotency_store is
$$Stores a 2xx answer for 24 hours, in the transaction of its effect. Errors: JS401.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.idempotency_begin(text, text, bytea),
  app.idempotency_store(text, text, bytea, integer, jsonb)
  to jewelshot_user, jewelshot_admin;
