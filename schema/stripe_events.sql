-- The events of Stripe, and how each was handled.
-- after: base, audit, tasks, orders

-- The events as they were signed. Kept for a month after they were handled.
create table app.stripe_events (
  id text primary key,
  type text not null,
  object_id text,
  created timestamptz not null,
  payload jsonb not null,
  source text not null,
  received_at timestamptz not null default app.now(),
  handled_at timestamptz,
  outcome text,
  order_id uuid references app.orders (id) on delete restrict,
  replays integer not null default 0,
  constraint stripe_events_source check (source in ('webhook', 'reconcile')),
  constraint stripe_events_handled check ((handled_at is null) = (outcome is null))
);
create index stripe_events_received on app.stripe_events (received_at desc, id desc);
create index stripe_events_unhandled on app.stripe_events (received_at) where handled_at is null;
create index stripe_events_handled_at on app.stripe_events (handled_at);
create index stripe_events_order_id on app.stripe_events (order_id);

alter table app.stripe_events enable row level security;
alter table app.stripe_events force row level security;

revoke all on app.stripe_events from public, anon, authenticated, service_role;

grant select, insert, update, delete on app.stripe_events to jewelshot_ledger;
grant select on app.stripe_events to jewelshot_admin, jewelshot_worker;

create policy stripe_events_writer on app.stripe_events to jewelshot_ledger
  using (true) with check (true);
create policy stripe_events_admin on app.stripe_events for select to jewelshot_admin
  using ((select app.is_admin()));
create policy stripe_events_worker on app.stripe_events for select to jewelshot_worker using (true);

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.receive_stripe_event(
  p_id text, p_type text, p_object_id text, p_created double precision, p_payload jsonb,
  p_source text
)
  returns boolean
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into app.stripe_events (id, type, object_id, created, payload, source)
  values (p_id, p_type, p_object_id, to_timestamp(p_created), p_payload, p_source)
  on conflict do nothing;
  if not found then
    return false;
  end if;
  perform app.add_task(
    'stripe_event.handle', jsonb_build_object('event_id', p_id), p_id);
  return true;
end $$;
comment on function app.receive_stripe_event is
$$Stores a signed event, to be handled once. Returns whether it is new.$$;

create function app.finish_stripe_event(p_event_id text, p_outcome text, p_order_id uuid)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.stripe_events
  set handled_at = app.now(), outcome = p_outcome, order_id = coalesce(p_order_id, order_id)
  where id = p_event_id
$$;
comment on function app.finish_stripe_event is
$$What was done about an event, in the transaction of its effect.$$;

create function app.replay_stripe_events(
  p_ids text[], p_from timestamptz, p_to timestamptz, p_types text[], p_limit integer
)
  returns setof text
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_ids text[];
  v_id text;
begin
  perform app.require_admin();
  with chosen as (
    select id
    from app.stripe_events
    where (p_ids is null or id = any (p_ids))
      and (p_from is null or received_at >= p_from)
      and (p_to is null or received_at < p_to)
      and (p_types is null or type = any (p_types))
    order by received_at, id
    limit p_limit
    for update
  ), reset as (
    update app.stripe_events as event
    set handled_at = null, outcome = null, replays = replays + 1
    from chosen
    where event.id = chosen.id
    returning event.id
  )
  select array_agg(id) into v_ids from reset;
  foreach v_id in array coalesce(v_ids, '{}') loop
    perform app.add_task(
      'stripe_event.handle', jsonb_build_object('event_id', v_id), v_id);
    return next v_id;
  end loop;
  perform app.write_audit('stripe_events.replay', null, jsonb_build_object(
    'ids', p_ids, 'from', p_from, 'to', p_to, 'types', p_types,
    'count', coalesce(cardinality(v_ids), 0)));
end $$;
comment on function app.replay_stripe_events is
$$Puts events back to work: the named ones, or those that were received in a range. Audited.
Returns their ids. Errors: JS403. Replay: handling an event again posts nothing new.$$;

create function app.prune_stripe_events(p_days integer)
  returns bigint
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  with pruned as (
    delete from app.stripe_events
    where handled_at < app.now() - make_interval(days => p_days)
    returning id
  )
  select count(*) from pruned
$$;
comment on function app.prune_stripe_events is
$$Handled events older than p_days are deleted: they hold names and addresses. Returns the count.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.receive_stripe_event(text, text, text, double precision, jsonb, text)
  to jewelshot_api;
grant execute on function
  app.receive_stripe_event(text, text, text, double precision, jsonb, text),
  app.finish_stripe_event(text, text, uuid),
  app.prune_stripe_events(integer)
  to jewelshot_worker;
grant execute on function
  app.replay_stripe_events(text[], timestamptz, timestamptz, text[], integer)
  to jewelshot_admin;
