insert into app.schedules (name, job, every_seconds)
values
  ('credits.expire', 'credits.expire', 3600),
  ('proofs.run', 'proofs.run', 86400),
  ('uploads.expire', 'uploads.expire', 3600),
  ('late_images.expire', 'late_images.expire', 3600),
  ('provider_calls.end_polls', 'provider_calls.end_polls', 3600),
  ('generations.mend_lines', 'generations.mend_lines', 60),
  ('housekeeping.purge', 'housekeeping.purge', 3600);
