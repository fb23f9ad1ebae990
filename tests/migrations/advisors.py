"""Our own versions of the checks that Supabase's database advisors make, as catalogue queries.

Each yields one text column `finding`. `ours` are the schemas that our migrations fill; `exposed`
is what PostgREST serves, where nothing of ours should be at all.
"""

import msgspec


class Advisor(msgspec.Struct, frozen=True):
    """`bad` is SQL that makes one finding: it proves that the query can find anything."""

    name: str
    query: str
    bad: str


ADVISORS = (
    Advisor(
        "0001_unindexed_foreign_keys",
        """
        select con.conrelid::regclass || '.' || con.conname as finding
        from pg_constraint as con
        where con.contype = 'f' and con.connamespace = any (%(ours)s::regnamespace[])
          and not exists (
            select from pg_index as i
            where i.indrelid = con.conrelid
              -- the key's columns lead the index, in any order
              and (i.indkey::int2[])[0:cardinality(con.conkey) - 1] @> con.conkey
              and (i.indpred is null or position('IS NOT NULL' in
                pg_get_expr(i.indpred, i.indrelid)) > 0))
        """,
        "create table app.bad (id int primary key, user_id uuid references app.users (id))",
    ),
    Advisor(
        "0003_auth_rls_initplan",
        """
        select schemaname || '.' || tablename || '.' || policyname as finding
        from pg_policies
        where schemaname = any (%(ours)s || array['storage'])
          -- calls that stand right behind a SELECT are evaluated once, all others for each row
          and regexp_replace(coalesce(qual, '') || coalesce(with_check, ''),
            'SELECT \\(?(auth|app)\\.[a-z_]+\\(\\)|SELECT current_setting\\(', '', 'g')
            ~ '(auth\\.(uid|role|jwt|email)|app\\.(current_user_id|is_admin|claims)'
              '|current_setting)\\('
        """,
        "create policy bad on app.users for select to jewelshot_user"
        " using (id = app.current_user_id())",
    ),
    Advisor(
        "0004_no_primary_key",
        """
        select c.oid::regclass::text as finding
        from pg_class as c
        where c.relkind in ('r', 'p') and c.relnamespace = any (%(ours)s::regnamespace[])
          and not exists (select from pg_index where indrelid = c.oid and indisprimary)
        """,
        "create table app.bad (id int)",
    ),
    Advisor(
        "0006_multiple_permissive_policies",
        """
        select tablename || ' ' || role || ' ' || verb as finding
        from pg_policies
        cross join unnest(roles) as role
        cross join unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE']) as verb
        where schemaname = any (%(ours)s) and permissive = 'PERMISSIVE' and cmd in ('ALL', verb)
        group by schemaname, tablename, role, verb
        having count(*) > 1
        """,
        "create policy bad on app.users for select to jewelshot_user using (false)",
    ),
    Advisor(
        "0007_policy_exists_rls_disabled",
        """
        select distinct p.schemaname || '.' || p.tablename as finding
        from pg_policies as p
        join pg_class as c on c.oid = format('%%I.%%I', p.schemaname, p.tablename)::regclass
        where p.schemaname = any (%(ours)s) and not c.relrowsecurity
        """,
        "alter table app.users disable row level security",
    ),
    Advisor(
        "0008_rls_enabled_no_policy",
        """
        select c.oid::regclass::text as finding
        from pg_class as c
        where c.relkind in ('r', 'p') and c.relnamespace = any (%(ours)s::regnamespace[])
          -- a partition is reached by its parent's policies
          and not c.relispartition
          and c.relrowsecurity and not exists (select from pg_policy where polrelid = c.oid)
        """,
        "create table app.bad (id int primary key); alter table app.bad enable row level security",
    ),
    Advisor(
        "0009_duplicate_index",
        """
        select min(i.indexrelid::regclass::text) as finding
        from pg_index as i
        join pg_class as c on c.oid = i.indexrelid
        where c.relnamespace = any (%(ours)s::regnamespace[])
        group by i.indrelid, regexp_replace(
          pg_get_indexdef(i.indexrelid), 'CREATE (UNIQUE )?INDEX [^ ]+ ', '')
        having count(*) > 1
        """,
        "create index bad on app.users (id)",
    ),
    Advisor(
        "0010_security_definer_view",
        """
        select c.oid::regclass::text as finding
        from pg_class as c
        where c.relkind = 'v' and c.relnamespace = any (%(ours)s::regnamespace[])
          and not coalesce(c.reloptions && array['security_invoker=true', 'security_invoker=on'],
            false)
        """,
        "create view app.bad as select 1 as one",
    ),
    Advisor(
        "0011_function_search_path_mutable",
        """
        select p.oid::regprocedure::text as finding
        from pg_proc as p
        where p.pronamespace = any (%(ours)s::regnamespace[])
          and not exists (
            select from unnest(p.proconfig) as setting where setting like 'search_path=%%')
          -- plain calls by full name, which the planner inlines only without a SET clause
          and p.oid <> all (array['app.now()', 'app.clock_now()']::regprocedure[])
        """,
        "create function app.bad() returns int language sql as 'select 1'",
    ),
    Advisor(
        "0013_rls_disabled",
        """
        select c.oid::regclass::text as finding
        from pg_class as c
        where c.relkind in ('r', 'p') and c.relnamespace = any (%(ours)s::regnamespace[])
          and not c.relrowsecurity
        """,
        "create table public.bad (id int primary key)",
    ),
    Advisor(
        "0014_extension_in_public",
        "select extname::text as finding from pg_extension"
        " where extnamespace = 'public'::regnamespace",
        "create extension citext schema public",
    ),
    Advisor(
        "0015_rls_references_user_metadata",
        """
        select schemaname || '.' || tablename || '.' || policyname as finding
        from pg_policies
        where schemaname = any (%(ours)s || array['storage'])
          and coalesce(qual, '') || coalesce(with_check, '') ~ 'user_metadata'
        """,
        "create policy bad on app.users for delete to jewelshot_user"
        " using ((select app.claims() -> 'user_metadata' ->> 'admin') = 'yes')",
    ),
    Advisor(
        "0021_fkey_to_auth_unique",
        """
        select con.conrelid::regclass || '.' || con.conname as finding
        from pg_constraint as con
        join pg_class as f on f.oid = con.confrelid
        join pg_index as i on i.indexrelid = con.conindid
        where con.contype = 'f' and f.relnamespace = 'auth'::regnamespace
          and con.connamespace <> 'auth'::regnamespace and not i.indisprimary
        """,
        "create table app.bad (phone text references auth.users (phone))",
    ),
    Advisor(
        "0024_rls_policy_always_true",
        """
        select schemaname || '.' || tablename || '.' || policyname as finding
        from pg_policies
        where schemaname = any (%(ours)s || array['storage'])
          and permissive = 'PERMISSIVE' and cmd in ('ALL', 'INSERT', 'UPDATE', 'DELETE')
          -- the worker and the ledger's writer are our own code, not people
          and roles && array['public', 'anon', 'authenticated', 'jewelshot_user',
            'jewelshot_admin', 'jewelshot_api']::name[]
          and 'true' in (qual, with_check)
        """,
        "create policy bad on app.users for insert to jewelshot_user with check (true)",
    ),
    Advisor(
        "0028_0029_security_definer_function_executable",
        """
        select p.oid::regprocedure || ' ' || role as finding
        from pg_proc as p
        cross join unnest(array['anon', 'authenticated']) as role
        where p.pronamespace = any (%(exposed)s::regnamespace[]) and p.prosecdef
          and has_function_privilege(role, p.oid, 'execute')
        """,
        "create function public.bad() returns int language sql security definer"
        " set search_path = '' as 'select 1'; grant execute on function public.bad() to anon",
    ),
)
