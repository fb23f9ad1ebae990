-- Way back of two lines of polls.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

drop index app.provider_calls_poll_abandoned;
drop index app.provider_calls_poll;
create index provider_calls_poll on app.provider_calls (next_poll_at)
  where next_poll_at is not null;
