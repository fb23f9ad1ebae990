drop trigger credit_accounts_note_low_balance on app.credit_accounts;
drop function app.note_low_balance();
drop table app.balance_terms;
drop table app.account_events;
