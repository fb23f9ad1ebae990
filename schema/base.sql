-- Roles, default privileges, the schema that PostgREST does not expose, the clock, and the helpers
-- that every policy asks. LOGIN and passwords are set by `migrations roles`, never here: the text
-- of a migration is recorded.
-- after:

do $$
declare
  v_role text;
begin
  -- user: a signed-in person; api and worker: the two that sign in; admin: a person with a second
  -- factor; ledger: the writer of money, state and outbox, which nobody but its owner can become.
  foreach v_role in array array['user', 'api', 'admin', 'worker', 'ledger'] loop
    if not exists (select from pg_roles where rolname = 'jewelshot_' || v_role) then
      execute format('create role %I nologin noinherit', 'jewelshot_' || v_role);
    end if;
  end loop;
end $$;

-- To make functions as the ledger's role; the plain form works on 15 and 18.
grant jewelshot_ledger to current_user;

-- Nothing else: the API cannot become the worker or the ledger.
grant jewelshot_user, jewelshot_admin to jewelshot_api;

-- Global on purpose: the form "in schema app" has no effect on the grant to public. Each role that
-- makes functions needs its own line: what another makes would be open to everybody.
alter default privileges revoke execute on functions from public;
alter default privileges for role jewelshot_ledger revoke execute on functions from public;

-- The second wall beside `search_path = pg_catalog, pg_temp`: who makes no temporary objects puts
-- no type of theirs in pg_temp. It belongs to the database, so clones and restores do not bring it
-- along, and some platforms refuse it: `migrations up`, `verify` and `roles` say it again.
do $$
begin
  execute format('revoke temporary on database %I from public', current_database());
exception
  when insufficient_privilege then
    raise warning 'temporary is not revoked from public: % owns the database',
      (select pg_get_userbyid(datdba) from pg_database where datname = current_database());
end $$;

create schema app;

-- anon, authenticated and service_role, which the Data API can become, get nothing here.
revoke all on schema app from public;
grant usage on schema app
  to jewelshot_user, jewelshot_api, jewelshot_admin, jewelshot_worker, jewelshot_ledger;

-- The clock. Both stay a plain call without a SET clause and read no setting: so the planner
-- inlines them, and nobody who can set a setting can move time. A test asserts the text; tests
-- that travel in time replace it in their own clone.
create function app.now()
  returns timestamptz
  language sql
  stable
as $$
  select pg_catalog.now()
$$;
comment on function app.now is
$$The time at which the transaction began.$$;

create function app.clock_now()
  returns timestamptz
  language sql
  volatile
as $$
  select pg_catalog.clock_timestamp()
$$;
comment on function app.clock_now is
$$The time of this call: for what must rise within a transaction, and for leases.$$;

create function app.claims()
  returns jsonb
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(nullif(current_setting('request.jwt.claims', true), '')::jsonb, '{}'::jsonb)
$$;
comment on function app.claims is
$$The verified claims of who is served, {} without. Own helpers, because own roles cannot be given
usage on schema auth.$$;

create function app.current_user_id()
  returns uuid
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
$$;
comment on function app.current_user_id is
$$Who is served, from the verified claims; null without them.$$;

create function app.is_admin()
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return app.admin_refusal() is null;
end $$;
comment on function app.is_admin is
$$For policies. An admin is app_metadata.role = admin AND a second factor, now and not only when the
token was issued: see app.admin_refusal. user_metadata is never used.$$;

create function app.refuse_change()
  returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception '% is append-only', tg_table_name
    using errcode = 'JS500', detail = jsonb_build_object('table', tg_table_name)::text;
end $$;
comment on function app.refuse_change is
$$Trigger of append-only tables. Row triggers do not fire on truncate, so it stands on statements.
Errors: JS500.$$;

grant execute on function
  app.now(),
  app.clock_now()
  to jewelshot_user, jewelshot_api, jewelshot_admin, jewelshot_worker, jewelshot_ledger;
grant execute on function
  app.claims(),
  app.current_user_id()
  to jewelshot_user, jewelshot_api, jewelshot_admin, jewelshot_ledger;
grant execute on function app.is_admin() to jewelshot_admin;

create function app.schema_version()
  returns text
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select max(version)
  from supabase_migrations.schema_migrations
$$;
comment on function app.schema_version is
$$The newest applied migration, for "at head?"; the ledger itself stays the migrating role's.$$;

grant execute on function app.schema_version() to jewelshot_api, jewelshot_worker;
