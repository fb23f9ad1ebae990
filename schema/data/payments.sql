insert into app.schedules (name, job, every_seconds)
values
  ('payments.sync_unsettled', 'payments.sync_unsettled', 600),
  ('payments.sync_completed', 'payments.sync_completed', 3600),
  ('payments.compare_day', 'payments.compare_day', 86400),
  ('stripe_events.handle_stranded', 'stripe_events.handle_stranded', 600),
  ('stripe_events.fetch_missed', 'stripe_events.fetch_missed', 86400),
  ('stripe_events.prune', 'stripe_events.prune', 86400);
