-- Roles, the schema that PostgREST does not expose, and the identity helpers of every policy.
-- LOGIN and passwords are set by `python -m migrations roles`, never here: statements are recorded.

do $$
begin
  if not exists (select from pg_roles where rolname = 'jewelshot_ledger') then
    create role jewelshot_ledger nologin noinherit;
  end if;
  if not exists (select from pg_roles where rolname = 'jewelshot_api') then
    create role jewelshot_api nologin noinherit;
  end if;
  if not exists (select from pg_roles where rolname = 'jewelshot_worker') then
    create role jewelshot_worker nologin noinherit;
  end if;
  if not exists (select from pg_roles where rolname = 'jewelshot_admin') then
    create role jewelshot_admin nologin noinherit;
  end if;
end $$;

-- To hand functions over to the ledger's role; the plain form works on 15 and 18.
grant jewelshot_ledger to current_user;

-- Nothing else: the API cannot become the worker or the ledger.
grant anon, authenticated, jewelshot_admin to jewelshot_api;

-- Global on purpose: the form "in schema app" has no effect on the grant to public.
alter default privileges revoke execute on functions from public;

create schema app;

revoke all on schema app from public;
grant usage on schema app to
  anon, authenticated, jewelshot_api, jewelshot_admin, jewelshot_worker, jewelshot_ledger;

-- Own helpers, because own roles cannot be given usage on schema auth.
create function app.claims()
  returns jsonb
  language sql
  stable
  set search_path = ''
as $$
  select coalesce(nullif(current_setting('request.jwt.claims', true), '')::jsonb, '{}'::jsonb)
$$;

create function app.current_user_id()
  returns uuid
  language sql
  stable
  set search_path = ''
as $$
  select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
$$;

-- An admin is app_metadata.role = admin AND a second factor; user_metadata is never asked.
create function app.is_admin()
  returns boolean
  language sql
  stable
  set search_path = ''
as $$
  select coalesce(
    app.claims() -> 'app_metadata' ->> 'role' = 'admin' and app.claims() ->> 'aal' = 'aal2', false)
$$;

grant execute on function app.claims(), app.current_user_id(), app.is_admin()
  to anon, authenticated, jewelshot_api, jewelshot_admin, jewelshot_ledger;

-- Append-only tables. Row triggers do not fire on truncate, so these are statement triggers.
create function app.refuse_change()
  returns trigger
  language plpgsql
  set search_path = ''
as $$
begin
  raise exception '% is append-only', tg_table_name
    using errcode = 'JS500', detail = jsonb_build_object('table', tg_table_name)::text;
end $$;
