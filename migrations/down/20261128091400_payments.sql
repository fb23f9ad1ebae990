delete from app.schedules
where name in (
  'payments.sync_unsettled',
  'payments.sync_completed',
  'payments.compare_day',
  'stripe_events.handle_stranded',
  'stripe_events.fetch_missed',
  'stripe_events.prune');
drop function app.prove_orders;
drop function app.payments_figures;
drop function app.payments_health;
drop function app.record_payment_day;
drop table app.payment_days;
