drop table app.ledger_transfers;
drop function app.seal_transfer();
drop table app.reservation_lots;
drop table app.reservations;
drop table app.credit_lots;
drop table app.credit_accounts;
drop table app.users;
