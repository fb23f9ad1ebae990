delete from app.schedules
where name in ('payments.sync_unsettled', 'payments.sync_completed', 'payments.fetch_events', 'payments.compare_day', 'payments.prune_events');
drop function app.prove_orders;
drop function app.payments_figures;
drop function app.payments_health;
drop function app.record_payment_day;
drop table app.payment_days;
