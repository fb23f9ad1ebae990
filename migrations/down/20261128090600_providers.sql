drop function app.sync_provider_keys;
drop table app.provider_keys;
drop table app.provider_accounts;
