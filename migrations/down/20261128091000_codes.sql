drop function app.redeem_code;
drop function app.disable_codes;
drop function app.create_codes;
drop table app.code_redemptions;
drop table app.codes;
