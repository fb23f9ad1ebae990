drop function app.metrics;
drop function app.health;
drop function app.schema_version;
