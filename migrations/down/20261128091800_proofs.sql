drop function app.reconcile;
drop function app.reconcile_payments;
drop function app.reconcile_ledger;
