drop function app.expire_uploads;
drop function app.settle_upload;
drop function app.delete_upload;
drop function app.discard_upload;
drop function app.complete_upload;
drop function app.prepare_upload;
drop function app.erase_upload;
drop table app.uploads;
