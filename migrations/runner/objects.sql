-- What a database holds of schema app, as (kind, name, text): read by objects.py, statement by
-- statement. A text is the same where the object is the same, whatever the order in which columns
-- were added and whoever named a NOT NULL constraint.

select 'schema', nspname, 'exists' from pg_namespace where nspname = 'app';

select 'table', c.oid::regclass::text, concat_ws(' ',
  case c.relkind when 'p' then 'partitioned by ' || pg_get_partkeydef(c.oid) else 'table' end,
  'partition of ' || parent.inhparent::regclass || ' '
    || pg_get_expr(c.relpartbound, c.oid),
  array_to_string(c.reloptions, ' '),
  case c.relpersistence when 'p' then null else 'not permanent' end)
from pg_class as c
left join pg_inherits as parent on parent.inhrelid = c.oid
where c.relnamespace = 'app'::regnamespace and c.relkind in ('r', 'p', 'f');

select 'row security', c.oid::regclass::text, concat_ws(' ',
  case when c.relrowsecurity then 'enabled' else 'off' end,
  case when c.relforcerowsecurity then 'forced' end)
from pg_class as c
where c.relnamespace = 'app'::regnamespace and c.relkind in ('r', 'p');

select 'column', c.oid::regclass || '.' || a.attname, concat_ws(' ',
  format_type(a.atttypid, a.atttypmod),
  case when a.attcollation <> t.typcollation
    then 'collate ' || a.attcollation::regcollation end,
  case when a.attnotnull then 'not null' end,
  case a.attgenerated when 's' then 'stored' when 'v' then 'virtual' end,
  case a.attidentity when 'a' then 'identity always' when 'd' then 'identity by default' end,
  'default ' || pg_get_expr(d.adbin, d.adrelid))
from pg_class as c
join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_type as t on t.oid = a.atttypid
left join pg_attrdef as d on d.adrelid = c.oid and d.adnum = a.attnum
where c.relnamespace = 'app'::regnamespace and c.relkind in ('r', 'p', 'f', 'v', 'm');

-- PostgreSQL 18 has NOT NULL as constraints with names that nobody chose.
select 'constraint', con.conname || ' on ' || c.oid::regclass, pg_get_constraintdef(con.oid)
from pg_constraint as con
join pg_class as c on c.oid = con.conrelid
where c.relnamespace = 'app'::regnamespace and con.contype <> 'n' and con.conparentid = 0
  and con.coninhcount = 0;

select 'index', c.oid::regclass::text, pg_get_indexdef(c.oid)
from pg_class as c
where c.relnamespace = 'app'::regnamespace and c.relkind in ('i', 'I') and not c.relispartition
  and not exists (
    select from pg_constraint where conindid = c.oid and contype in ('p', 'u', 'x'));

select 'view', c.oid::regclass::text, pg_get_viewdef(c.oid)
from pg_class as c
where c.relnamespace = 'app'::regnamespace and c.relkind in ('v', 'm');

select 'type', t.oid::regtype::text, coalesce(
  (select string_agg(quote_literal(enumlabel), ', ' order by enumsortorder)
   from pg_enum where enumtypid = t.oid), t.typtype::text)
from pg_type as t
left join pg_class as c on c.oid = t.typrelid
where t.typnamespace = 'app'::regnamespace and t.typelem = 0
  and (c.oid is null or c.relkind = 'c');

select 'policy', p.polname || ' on ' || c.oid::regclass, concat_ws(' ',
  case when p.polpermissive then 'permissive' else 'restrictive' end,
  case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update'
    when 'd' then 'delete' else 'all' end,
  'to', (
    select string_agg(coalesce(r.rolname, 'public'), ', ' order by r.rolname)
    from unnest(p.polroles) as role (oid)
    left join pg_roles as r on r.oid = role.oid),
  'using ' || pg_get_expr(p.polqual, p.polrelid),
  'with check ' || pg_get_expr(p.polwithcheck, p.polrelid))
from pg_policy as p
join pg_class as c on c.oid = p.polrelid
where c.relnamespace = 'app'::regnamespace;

select 'trigger', t.tgname || ' on ' || c.oid::regclass,
  pg_get_triggerdef(t.oid)
    || case t.tgenabled when 'O' then '' else ' ' || t.tgenabled::text end
from pg_trigger as t
join pg_class as c on c.oid = t.tgrelid
where not t.tgisinternal and t.tgparentid = 0 and (
  c.relnamespace = 'app'::regnamespace
  or t.tgfoid in (select oid from pg_proc where pronamespace = 'app'::regnamespace));

select 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid)
from pg_proc as p
where p.pronamespace = 'app'::regnamespace;

select 'owner', 'table ' || c.oid::regclass, pg_get_userbyid(c.relowner)::text
from pg_class as c
where c.relnamespace = 'app'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
union all
select 'owner', 'function ' || p.oid::regprocedure, pg_get_userbyid(p.proowner)
from pg_proc as p
where p.pronamespace = 'app'::regnamespace
union all
select 'owner', 'schema ' || nspname, pg_get_userbyid(nspowner)
from pg_namespace where nspname = 'app';

select 'comment', concat_ws(' ', 'table', c.oid::regclass), d.description
from pg_description as d
join pg_class as c on c.oid = d.objoid and d.classoid = 'pg_class'::regclass and d.objsubid = 0
where c.relnamespace = 'app'::regnamespace and c.relkind in ('r', 'p')
union all
select 'comment', 'column ' || c.oid::regclass || '.' || a.attname, d.description
from pg_description as d
join pg_class as c on c.oid = d.objoid and d.classoid = 'pg_class'::regclass
join pg_attribute as a on a.attrelid = c.oid and a.attnum = d.objsubid and a.attnum > 0
where c.relnamespace = 'app'::regnamespace
union all
select 'comment', 'function ' || p.oid::regprocedure, d.description
from pg_description as d
join pg_proc as p on p.oid = d.objoid and d.classoid = 'pg_proc'::regclass
where p.pronamespace = 'app'::regnamespace;

select 'grant', lower(g.privilege_type) || ' on '
  || case c.relkind when 'S' then 'sequence ' else '' end || c.oid::regclass || ' to '
  || case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee) end,
  case when g.is_grantable then 'with grant option' else '' end
from pg_class as c
cross join aclexplode(coalesce(c.relacl,
  acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner))) as g
where c.relnamespace = 'app'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
  and g.grantee <> c.relowner
union all
select 'grant', lower(g.privilege_type) || ' (' || a.attname || ') on ' || c.oid::regclass
  || ' to ' || case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee) end,
  case when g.is_grantable then 'with grant option' else '' end
from pg_class as c
join pg_attribute as a on a.attrelid = c.oid and not a.attisdropped
cross join aclexplode(a.attacl) as g
where c.relnamespace = 'app'::regnamespace and g.grantee <> c.relowner
union all
select 'grant', 'execute on function ' || p.oid::regprocedure || ' to '
  || case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee) end,
  case when g.is_grantable then 'with grant option' else '' end
from pg_proc as p
cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as g
where p.pronamespace = 'app'::regnamespace and g.grantee <> p.proowner
union all
select 'grant', lower(g.privilege_type) || ' on schema ' || n.nspname || ' to '
  || case g.grantee when 0 then 'public' else pg_get_userbyid(g.grantee) end,
  case when g.is_grantable then 'with grant option' else '' end
from pg_namespace as n
cross join aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) as g
where n.nspname = 'app' and g.grantee <> n.nspowner;

select 'default grant', concat_ws(' ', pg_get_userbyid(defaclrole),
  'in ' || nullif(defaclnamespace, 0)::regnamespace, defaclobjtype), defaclacl::text
from pg_default_acl;

select 'setting', concat_ws(' ', 'of role ' || nullif(setrole, 0)::regrole),
  array_to_string(setconfig, ' ')
from pg_db_role_setting
where setdatabase = (select oid from pg_database where datname = current_database());
