-- Polls of abandoned calls are found by an index of their own: however many they are, the calls
-- that people wait for are not behind them.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

drop index app.provider_calls_poll;
create index provider_calls_poll on app.provider_calls (next_poll_at)
  where next_poll_at is not null and state <> 'abandoned';
create index provider_calls_poll_abandoned on app.provider_calls (next_poll_at)
  where next_poll_at is not null and state = 'abandoned';
