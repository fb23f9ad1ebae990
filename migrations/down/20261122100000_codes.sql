drop function app.redeem_code(bytea);
drop function app.disable_codes(uuid, uuid);
drop function app.create_codes(
  uuid, text, bigint, integer, timestamptz, integer, text, text, jsonb);
drop table app.code_redemptions;
drop table app.codes;
