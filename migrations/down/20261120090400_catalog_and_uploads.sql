drop function app.expire_uploads(double precision, integer);
drop function app.settle_upload(uuid, uuid, text, jsonb);
drop function app.discard_upload(uuid);
drop function app.complete_upload(uuid, text, bigint);
drop function app.prepare_upload(uuid, text, text);
drop table app.uploads;
drop table app.operations;
