-- Roles and their memberships stay: they belong to the server, and other databases use them.
drop function app.schema_version;
drop function app.refuse_change;
drop function app.is_admin;
drop function app.current_user_id;
drop function app.claims;
drop function app.clock_now;
drop function app.now;
drop schema app;
do $$
begin
  execute format('grant temporary on database %I to public', current_database());
end $$;
alter default privileges for role jewelshot_ledger grant execute on functions to public;
alter default privileges grant execute on functions to public;
