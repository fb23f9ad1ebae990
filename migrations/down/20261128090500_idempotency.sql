drop function app.idempotency_store;
drop function app.idempotency_begin;
drop table app.idempotency_keys;
