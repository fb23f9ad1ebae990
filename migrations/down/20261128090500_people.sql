drop function app.open_account;
drop function app.person_key;
drop function app.verified_email;
drop table app.signup_terms;
drop table app.signup_grants;
drop table app.users;
