-- What can be bought for credits.
-- after: base

create function app.rises_below(p_amounts bigint[], p_limit bigint)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(bool_and(amount > before and amount < p_limit), true)
  from (
    select amount, lag(amount, 1, 0::bigint) over (order by place) as before
    from unnest(p_amounts) with ordinality as part (amount, place)
  ) as parts
$$;
comment on function app.rises_below is
$$Positive amounts of which each is more than the one before and less than the limit.$$;

-- One row a version; a new price or model is a new version, the old one stays for its generations.
create table app.operations (
  slug text not null,
  version integer not null,
  title text not null,
  description text not null,
  lane text not null,
  cost_credits bigint not null,
  steps jsonb not null,
  output_rule text not null,
  params_schema jsonb not null,
  presets jsonb not null default '[]',
  wait_seconds integer not null default 1800,  -- for a turn
  batch_wait_seconds integer not null default 172800,
  deadline_seconds integer not null default 900,
  uncertain_seconds integer not null default 120,
  -- What is charged of the price when a run is cancelled after its first, second … step was
  -- delivered. Before that it is free, and after the last step the image is delivered.
  cancel_credits bigint[] not null default '{}',
  is_active boolean not null default true,
  created_at timestamptz not null default app.now(),
  primary key (slug, version),
  constraint operations_lane check (lane in ('locked', 'reimagined')),
  constraint operations_cost_positive check (cost_credits > 0),
  constraint operations_steps_not_empty check (jsonb_array_length(steps) > 0),
  constraint operations_wait check (wait_seconds > 0 and batch_wait_seconds > 0),
  constraint operations_cancel_credits check (
    cardinality(cancel_credits) < jsonb_array_length(steps)
    and app.rises_below(cancel_credits, cost_credits)),
  constraint operations_deadline check (uncertain_seconds between 1 and deadline_seconds - 1)
);
create unique index operations_only_one_active on app.operations (slug) where is_active;

alter table app.operations enable row level security;
alter table app.operations force row level security;

revoke all on app.operations from public, anon, authenticated, service_role;

grant select on app.operations
  to jewelshot_user, jewelshot_ledger, jewelshot_worker, jewelshot_admin, jewelshot_api;

create policy operations_everyone on app.operations for select
  to jewelshot_user, jewelshot_ledger, jewelshot_worker, jewelshot_admin, jewelshot_api
  using (true);

create function app.params_fit(p_schema jsonb, p_params jsonb)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_typeof(p_params) = 'object'
    and octet_length(p_params::text) <= 16384
    and not exists (
      select
      from jsonb_each(p_params) as given (name, value)
      left join jsonb_each(p_schema -> 'properties') as known (name, rule)
        on known.name = given.name
      where (case
        when known.rule is null then false
        when known.rule ? 'enum' then (known.rule -> 'enum') @> jsonb_build_array(given.value)
        when known.rule ->> 'type' in ('integer', 'number') then
          case when jsonb_typeof(given.value) = 'number' then
            (known.rule ->> 'type' = 'number' or given.value::numeric % 1 = 0)
            and given.value::numeric between
              coalesce((known.rule ->> 'minimum')::numeric, '-infinity')
              and coalesce((known.rule ->> 'maximum')::numeric, 'infinity')
          end
        when known.rule ->> 'type' = 'string' then
          jsonb_typeof(given.value) = 'string'
          and char_length(given.value #>> '{}') between
            coalesce((known.rule ->> 'minLength')::integer, 0)
            and coalesce((known.rule ->> 'maxLength')::integer, 16384)
        else jsonb_typeof(given.value) = known.rule ->> 'type' end) is not true
    )
$$;
comment on function app.params_fit is
$$Whether parameters stay within the bounds of an operation's schema: known names, types, ranges,
lengths and words. core/catalog/params.py says what is wrong with them and fills in what is left out;
this is the wall behind it, for whoever calls without asking there.$$;

grant execute on function app.params_fit(jsonb, jsonb) to jewelshot_ledger;
