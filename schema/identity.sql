-- Who may act now. A token says who somebody was when it was issued; the tables of Supabase Auth say
-- who that is at this moment: whether the session lives, the account is open, the role still given
-- and the second factor still there. Owned by the migrating role, which may read them.
-- after: base

-- The second factors of admins, and who answers for each. What was enrolled by whoever knew the
-- password is no second factor: it counts once somebody confirmed it who could already act.
create table app.admin_factors (
  factor_id uuid primary key,  -- of auth.mfa_factors, without a foreign key: the line outlives it
  admin_id uuid not null,  -- of auth.users
  seen_at timestamptz not null default app.now(),
  confirmed_at timestamptz,
  confirmed_by text,
  constraint admin_factors_confirmed check ((confirmed_at is null) = (confirmed_by is null))
);
create index admin_factors_admin_id on app.admin_factors (admin_id);

alter table app.admin_factors enable row level security;
alter table app.admin_factors force row level security;

revoke all on app.admin_factors from public, anon, authenticated, service_role;

grant select, insert, update on app.admin_factors to jewelshot_ledger;

create policy admin_factors_writer on app.admin_factors to jewelshot_ledger
  using (true) with check (true);

create function app.require_person()
  returns uuid
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_claims jsonb := app.claims();
  v_user_id uuid := (v_claims ->> 'sub')::uuid;
  v_person record;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  select person.banned_until, person.deleted_at
  into v_person
  from auth.sessions as session
  join auth.users as person on person.id = session.user_id
  where session.id = (v_claims ->> 'session_id')::uuid
    and session.user_id = v_user_id
    and (session.not_after is null or session.not_after > app.now());
  if not found or v_person.deleted_at is not null then
    raise exception 'the session has ended'
      using errcode = 'JS401', detail = '{"reason": "session_not_found"}';
  elsif v_person.banned_until > app.now() then
    raise exception 'the account is closed'
      using errcode = 'JS403', detail = '{"reason": "user_banned"}';
  end if;
  return v_user_id;
end $$;
comment on function app.require_person is
$$Who is served, where the session lives and the account is open: what each function asks first that
writes for a person. Two look-ups by primary key in the caller's own statement, so sign-out, ban and
deletion take effect at once, although the token is good until it expires.
Errors: JS401 (no identity, or {reason: session_not_found}), JS403 {reason: user_banned}.$$;

create function app.admin_refusal()
  returns text
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_claims jsonb := app.claims();
  v_admin record;
begin
  if v_claims ->> 'role' = 'jewelshot_admin' and v_claims -> 'break_glass' = 'true' then
    return null;
  elsif v_claims -> 'app_metadata' ->> 'role' is distinct from 'admin' then
    return 'not_an_admin';
  elsif v_claims ->> 'aal' is distinct from 'aal2' then
    return 'mfa_required';
  end if;
  select session.aal, person.banned_until, person.deleted_at,
    person.raw_app_meta_data ->> 'role' as role, factor.status as factor_status,
    known.confirmed_at
  into v_admin
  from auth.sessions as session
  join auth.users as person on person.id = session.user_id
  left join auth.mfa_factors as factor
    on factor.id = session.factor_id and factor.user_id = session.user_id
  left join app.admin_factors as known
    on known.factor_id = factor.id and known.admin_id = session.user_id
  where session.id = (v_claims ->> 'session_id')::uuid
    and session.user_id = (v_claims ->> 'sub')::uuid
    and (session.not_after is null or session.not_after > app.now());
  return case
    when not found or v_admin.deleted_at is not null then 'session_not_found'
    when v_admin.banned_until > app.now() then 'user_banned'
    when v_admin.role is distinct from 'admin' then 'not_an_admin'
    when v_admin.aal is distinct from 'aal2' or v_admin.factor_status is distinct from 'verified'
      then 'mfa_required'
    when v_admin.confirmed_at is null then 'factor_not_confirmed' end;
end $$;
comment on function app.admin_refusal is
$$Why the caller may not act as an admin at this moment, null where they may: the role is given both
in the token and in Auth's table, the session lives, and the factor that lifted it is still there and
was confirmed.
The break-glass key has neither; only the API's own claims carry its role.$$;

create function app.require_admin()
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  case app.admin_refusal()
    when 'session_not_found' then
      raise exception 'the session has ended'
        using errcode = 'JS401', detail = '{"reason": "session_not_found"}';
    when 'user_banned' then
      raise exception 'the account is closed'
        using errcode = 'JS403', detail = '{"reason": "user_banned"}';
    when 'mfa_required' then
      raise exception 'this takes the second factor'
        using errcode = 'JS403', detail = '{"reason": "mfa_required"}';
    when 'factor_not_confirmed' then
      raise exception 'nobody answers for this second factor'
        using errcode = 'JS403', detail = '{"reason": "factor_not_confirmed"}';
    when 'not_an_admin' then
      raise exception 'admins only'
        using errcode = 'JS403', detail = '{"reason": "not_an_admin"}';
    else
      return;
  end case;
end $$;
comment on function app.require_admin is
$$What each function asks first that an admin calls, and each admin's request before anything else.
Errors: JS401 {reason: session_not_found}, JS403 {reason: not_an_admin, mfa_required,
factor_not_confirmed or user_banned}.$$;

create function app.require_fresh_admin()
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform app.require_admin();
  if app.claims() ->> 'role' = 'jewelshot_admin' then
    return;
  end if;
  if not exists (
    select
    from jsonb_to_recordset(
      case when jsonb_typeof(app.claims() -> 'amr') = 'array' then app.claims() -> 'amr'
        else '[]' end
    ) as proof (method text, "timestamp" double precision)
    where (method = 'totp' or starts_with(method, 'mfa/'))
      and to_timestamp("timestamp") > app.now() - interval '12 hours'
  ) then
    raise exception 'the second factor was shown too long ago'
      using errcode = 'JS403', detail = '{"reason": "second_factor_too_old"}';
  end if;
end $$;
comment on function app.require_fresh_admin is
$$As app.require_admin, and the second factor was shown within twelve hours: for what moves money or
lets somebody in. Errors: as app.require_admin, JS403 {reason: second_factor_too_old}.$$;

create function app.note_admin_role()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if new.raw_app_meta_data ->> 'role' = 'admin' then
    insert into app.admin_factors (factor_id, admin_id, confirmed_at, confirmed_by)
    select id, new.id, app.now(), 'there when the role was given'
    from auth.mfa_factors
    where user_id = new.id
      and status = 'verified'
    on conflict (factor_id) do update
    set confirmed_at = excluded.confirmed_at, confirmed_by = excluded.confirmed_by;
    perform app.write_audit('admin_role.give', new.id::text, '{}');
  else
    update app.admin_factors
    set confirmed_at = null, confirmed_by = null
    where admin_id = new.id;
    perform app.write_audit('admin_role.take', new.id::text, '{}');
  end if;
  return null;
exception
  when others then
    -- Auth must never fail for us. What was not noted is not confirmed, which is the safe side.
    raise warning 'admin role of % not noted: %', new.id, sqlerrm;
    return null;
end $$;
comment on function app.note_admin_role is
$$Trigger on auth.users, when the role of an admin is given or taken: whoever gives it answers for the
factors that are there, and taking it ends that. Audited.$$;

create trigger jewelshot_admin_role
  after update of raw_app_meta_data on auth.users
  for each row when (
    (new.raw_app_meta_data ->> 'role' is not distinct from 'admin')
    <> (old.raw_app_meta_data ->> 'role' is not distinct from 'admin'))
  execute function app.note_admin_role();

create function app.list_admin_factors()
  returns table (
    factor_id uuid, admin_id uuid, email text, friendly_name text, factor_type text,
    enrolled_at timestamptz, confirmed_at timestamptz, confirmed_by text
  )
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select factor.id, person.id, person.email::text, factor.friendly_name, factor.factor_type::text,
    factor.created_at, known.confirmed_at, known.confirmed_by
  from auth.users as person
  join auth.mfa_factors as factor on factor.user_id = person.id
  left join app.admin_factors as known
    on known.factor_id = factor.id and known.admin_id = person.id
  where person.raw_app_meta_data ->> 'role' = 'admin'
    and person.deleted_at is null
    and factor.status = 'verified'
    and (select app.is_admin())
  order by known.confirmed_at is not null, factor.created_at desc, factor.id
$$;
comment on function app.list_admin_factors is
$$The verified second factors of all admins, those first that nobody has confirmed. Nothing for who is
no admin.$$;

create function app.find_unconfirmed_factor()
  returns table (factor_id uuid, admin_id uuid)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select factor.id, factor.user_id
  from auth.sessions as session
  join auth.users as person on person.id = session.user_id
  join auth.mfa_factors as factor
    on factor.id = session.factor_id and factor.user_id = session.user_id
  left join app.admin_factors as known on known.factor_id = factor.id
  where session.id = (app.claims() ->> 'session_id')::uuid
    and session.user_id = app.current_user_id()
    and person.raw_app_meta_data ->> 'role' = 'admin'
    and known.factor_id is null
$$;
comment on function app.find_unconfirmed_factor is
$$The factor that lifted the caller's session, where the caller has the role of an admin and the
factor was not seen before.$$;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.report_factor()
  returns boolean
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_factor_id uuid;
begin
  insert into app.admin_factors (factor_id, admin_id)
  select factor_id, admin_id
  from app.find_unconfirmed_factor()
  where admin_id = v_user_id
  on conflict do nothing
  returning factor_id into v_factor_id;
  if v_factor_id is null then
    return false;
  end if;
  perform app.write_audit(
    'admin_factor.enrol', v_user_id::text, jsonb_build_object('factor_id', v_factor_id));
  return true;
end $$;
comment on function app.report_factor is
$$Notes and audits that an admin's account uses a second factor that nobody has confirmed. Whether it
was new. Errors: JS401, JS403. Replay: false.$$;

create function app.confirm_admin_factor(p_factor_id uuid, p_reason text)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_factor record;
begin
  perform app.require_fresh_admin();
  select *
  into v_factor
  from app.list_admin_factors() as listed
  where listed.factor_id = p_factor_id;
  if not found then
    raise exception 'no such factor' using errcode = 'JS404', detail = '{"kind": "admin_factor"}';
  end if;
  if v_factor.confirmed_at is not null then
    return;
  end if;
  insert into app.admin_factors (factor_id, admin_id, confirmed_at, confirmed_by)
  values (
    p_factor_id, v_factor.admin_id, app.now(), coalesce(app.claims() ->> 'sub', 'break-glass'))
  on conflict (factor_id) do update
  set confirmed_at = excluded.confirmed_at, confirmed_by = excluded.confirmed_by;
  perform app.write_audit('admin_factor.confirm', v_factor.admin_id::text, jsonb_build_object(
    'factor_id', p_factor_id, 'reason', p_reason));
end $$;
comment on function app.confirm_admin_factor is
$$Somebody who may act as an admin answers for a second factor: another admin, the same one by a
factor that was confirmed before, or the break-glass key. Audited.
Errors: as app.require_fresh_admin, JS404. Replay: does nothing more.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function app.require_person() to jewelshot_user, jewelshot_ledger;
grant execute on function
  app.admin_refusal(),
  app.require_admin()
  to jewelshot_admin, jewelshot_ledger;
grant execute on function
  app.require_fresh_admin(),
  app.find_unconfirmed_factor()
  to jewelshot_ledger;
grant execute on function app.list_admin_factors() to jewelshot_admin, jewelshot_ledger;
grant execute on function app.report_factor() to jewelshot_user;
grant execute on function app.confirm_admin_factor(uuid, text) to jewelshot_admin;
