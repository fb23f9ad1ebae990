drop function app.idempotency_store;
drop function app.idempotency_begin;
drop function app.idempotency_user_id;
drop table app.idempotency_keys;
