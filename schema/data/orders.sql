insert into app.payment_terms (
  return_days, buyer_returns_per_month, disputes_max, unpaid_orders_per_hour
)
values (14, 6, 2, 10);

insert into app.payment_provider default values;

insert into app.packs (slug, version, title, credits, unit_amount, currency, lookup_key)
values
  ('credits_10', 1, '10 credits', 10, 490, 'eur', 'credits_10'),
  ('credits_50', 1, '50 credits', 50, 1990, 'eur', 'credits_50'),
  ('credits_100', 1, '100 credits', 100, 3490, 'eur', 'credits_100'),
  ('credits_500', 1, '500 credits', 500, 14900, 'eur', 'credits_500');
