drop function app.expire_uploads(uuid, double precision, integer);
drop function app.settle_upload(uuid, uuid, text, jsonb);
drop function app.delete_upload(uuid);
drop function app.discard_upload(uuid);
drop function app.complete_upload(uuid, text, bigint);
drop function app.prepare_upload(uuid, text, text, double precision);
drop function app.erase_upload(app.uploads);
drop table app.uploads;
drop table app.operations;
