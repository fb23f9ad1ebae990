delete from app.schedules
where name like 'payments.%'
  or name like 'stripe_events.%';
drop function app.prove_orders;
drop function app.payments_figures;
drop function app.payments_health;
drop function app.record_payment_day;
drop table app.payment_days;
