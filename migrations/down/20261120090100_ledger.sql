drop table app.ledger_transfers;
drop table app.reservation_lots;
drop table app.reservations;
drop table app.credit_lots;
drop table app.credit_accounts;
drop table app.users;
