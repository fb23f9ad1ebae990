-- Way back of second payments and disputes: their rows are lost, the orders keep what they were granted.

set local lock_timeout = '10s';

drop table app.fraud_warnings;
drop index app.payment_disputes_created;
alter table app.payment_disputes
  drop column provider_payment_id,
  drop column is_answer_due,
  drop column evidence_due_at,
  drop column acknowledged_at;
alter table app.payment_returns drop column provider_payment_id;
drop table app.order_payments;
alter table app.order_sessions drop column price_id;
drop index app.orders_card_fingerprint;
alter table app.orders
  drop constraint orders_review_session,
  drop constraint orders_review_decision,
  drop column tried_at,
  drop column looks,
  drop column looked_at,
  drop column payment_method,
  drop column card_fingerprint,
  drop column review_decision,
  drop column review_session_id;
drop table app.payment_provider;
alter table app.payment_terms rename column disputes_max to lost_disputes_max;
