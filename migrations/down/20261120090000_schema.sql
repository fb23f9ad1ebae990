-- Roles and their memberships stay: they belong to the cluster, and other databases use them.
drop function app.refuse_change();
drop function app.is_admin();
drop function app.current_user_id();
drop function app.claims();
drop schema app;
alter default privileges grant execute on functions to public;
