-- The audit log: what admins did. Details stand in a second table, so that a person can be
-- forgotten without touching the line that says that something was done.
-- after: base

create table app.audit_log (
  id bigint generated always as identity primary key,
  actor text not null,
  action text not null,
  target text,
  created_at timestamptz not null default app.now()
);
create index audit_log_target on app.audit_log (target, action);

create table app.audit_details (
  audit_id bigint primary key references app.audit_log (id) on delete restrict,
  detail jsonb not null
);

alter table app.audit_log enable row level security;
alter table app.audit_log force row level security;
alter table app.audit_details enable row level security;
alter table app.audit_details force row level security;

revoke all on app.audit_log, app.audit_details from public, anon, authenticated, service_role;

grant select, insert on app.audit_log, app.audit_details to jewelshot_ledger;
grant select on app.audit_log, app.audit_details to jewelshot_admin;

create policy audit_log_writer on app.audit_log to jewelshot_ledger using (true) with check (true);
create policy audit_log_admin on app.audit_log for select to jewelshot_admin
  using ((select app.is_admin()));
create policy audit_details_writer on app.audit_details to jewelshot_ledger
  using (true) with check (true);
create policy audit_details_admin on app.audit_details for select to jewelshot_admin
  using ((select app.is_admin()));

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.write_audit(p_action text, p_target text, p_detail jsonb)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  with line as (
    insert into app.audit_log (actor, action, target)
    select coalesce(
        app.claims() ->> 'sub',
        case when app.claims() ->> 'break_glass' = 'true' then 'break-glass' else 'system' end),
      p_action, p_target
    returning id
  )
  insert into app.audit_details (audit_id, detail)
  select id, coalesce(p_detail, '{}')
  from line
$$;
comment on function app.write_audit is
$$One line in the audit log, in the words of the claims: who, or the break-glass key.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

create trigger audit_log_append_only
  before update or delete on app.audit_log
  for each statement execute function app.refuse_change();
create trigger audit_log_no_truncate
  before truncate on app.audit_log
  for each statement execute function app.refuse_change();
create trigger audit_details_no_change
  before update on app.audit_details
  for each statement execute function app.refuse_change();
create trigger audit_details_no_truncate
  before truncate on app.audit_details
  for each statement execute function app.refuse_change();
