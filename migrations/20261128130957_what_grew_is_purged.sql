-- Dead letters, counters and polls of calls whose keys are gone end some day.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

alter table app.metric_counters add column seen_at timestamptz not null default app.now();

insert into app.schedules (name, job, every_seconds)
values ('provider_calls.end_polls', 'provider_calls.end_polls', 3600);

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.purge_dead_letters(p_limit integer)
  returns integer
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_purged integer;
begin
  delete from app.dead_letters
  where id in (
    select id
    from app.dead_letters
    where died_at < app.now() - interval '90 days'
      and (replayed_at is not null or died_at < app.now() - interval '365 days')
    order by died_at
    limit p_limit
  );
  get diagnostics v_purged = row_count;
  return v_purged;
end $$;

comment on function app.purge_dead_letters is
$$Deletes letters that were replayed, 90 days after their task died, and those that nobody replayed
after a year: what they were for has ended in any case. Returns how many.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant delete on app.dead_letters to jewelshot_ledger;

grant delete on app.metric_counters to jewelshot_worker;

grant execute on function app.purge_dead_letters(integer) to jewelshot_worker;

grant update (seen_at) on app.metric_counters to jewelshot_worker;
