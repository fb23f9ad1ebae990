drop function app.cool_down;
drop function app.end_probe;
drop function app.begin_probe;
drop function app.open_breaker;
drop function app.sync_provider_keys;
drop table app.provider_keys;
drop table app.provider_accounts;
