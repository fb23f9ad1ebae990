insert into app.schedules (name, job, every_seconds)
values
  ('payments.sync_unsettled', 'payments.sync_unsettled', 600),
  ('payments.sync_completed', 'payments.sync_completed', 3600),
  ('payments.fetch_events', 'payments.fetch_events', 86400),
  ('payments.compare_day', 'payments.compare_day', 86400),
  ('payments.prune_events', 'payments.prune_events', 86400);
