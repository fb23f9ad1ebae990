-- What can be bought for credits.
-- after: base

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
  deadline_seconds integer not null default 900,
  uncertain_seconds integer not null default 120,
  is_active boolean not null default true,
  created_at timestamptz not null default app.now(),
  primary key (slug, version),
  constraint operations_lane check (lane in ('locked', 'reimagined')),
  constraint operations_cost_positive check (cost_credits > 0),
  constraint operations_steps_not_empty check (jsonb_array_length(steps) > 0),
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
