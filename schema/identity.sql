-- Who may act now. A token says who somebody was when it was issued; the tables of Supabase Auth say
-- who that is at this moment: whether the session lives, the account is open, the role still given
-- and the second factor still there. Owned by the migrating role, which may read them.
-- after: base

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
    person.raw_app_meta_data ->> 'role' as role, factor.status as factor_status
  into v_admin
  from auth.sessions as session
  join auth.users as person on person.id = session.user_id
  left join auth.mfa_factors as factor
    on factor.id = session.factor_id and factor.user_id = session.user_id
  where session.id = (v_claims ->> 'session_id')::uuid
    and session.user_id = (v_claims ->> 'sub')::uuid
    and (session.not_after is null or session.not_after > app.now());
  return case
    when not found or v_admin.deleted_at is not null then 'session_not_found'
    when v_admin.banned_until > app.now() then 'user_banned'
    when v_admin.role is distinct from 'admin' then 'not_an_admin'
    when v_admin.aal is distinct from 'aal2' or v_admin.factor_status is distinct from 'verified'
      then 'mfa_required' end;
end $$;
comment on function app.admin_refusal is
$$Why the caller may not act as an admin at this moment, null where they may: the role is given both
in the token and in Auth's table, the session lives, and the factor that lifted it is still there.
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
    when 'not_an_admin' then
      raise exception 'admins only'
        using errcode = 'JS403', detail = '{"reason": "not_an_admin"}';
    else
      return;
  end case;
end $$;
comment on function app.require_admin is
$$What each function asks first that an admin calls, and each admin's request before anything else.
Errors: JS401 {reason: session_not_found}, JS403 {reason: not_an_admin|mfa_required|user_banned}.$$;

grant execute on function app.require_person() to jewelshot_user, jewelshot_ledger;
grant execute on function
  app.admin_refusal(),
  app.require_admin()
  to jewelshot_admin, jewelshot_ledger;
