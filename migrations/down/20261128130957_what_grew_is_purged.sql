-- Way back of what grew is purged.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

drop function app.purge_dead_letters(integer);

revoke delete on app.dead_letters from jewelshot_ledger;

revoke delete on app.metric_counters from jewelshot_worker;

revoke update (seen_at) on app.metric_counters from jewelshot_worker;

delete from app.schedules where name = 'provider_calls.end_polls';
delete from app.outbox where job = 'provider_calls.end_polls';

alter table app.metric_counters drop column seen_at;
