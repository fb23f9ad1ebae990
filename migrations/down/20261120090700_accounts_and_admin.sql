drop index app.audit_log_target;
drop function app.adjust_credits(uuid, bigint, text, text);
drop function app.open_account(text);
drop function app.person_key(text);
drop function app.verified_email(uuid);
drop table app.signup_terms;
drop table app.signup_grants;
