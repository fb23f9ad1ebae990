delete from app.schedules;
drop function app.schema_version();
drop function app.metrics();
drop function app.health();
drop function app.reconcile();
