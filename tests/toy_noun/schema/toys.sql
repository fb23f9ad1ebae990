-- Toys, and how much they shine.
-- after: base, people, tasks, events

create table app.toys (
  id uuid primary key,
  user_id uuid not null references app.users (id) on delete restrict,
  shine integer not null,
  polished_at timestamptz,
  constraint toys_shine_not_negative check (shine >= 0)
);
create index toys_user_id on app.toys (user_id);

alter table app.toys enable row level security;
alter table app.toys force row level security;

revoke all on
  app.toys
  from public, anon, authenticated, service_role;

grant select, insert, update (shine, polished_at) on app.toys to jewelshot_ledger;
grant select on app.toys to jewelshot_user, jewelshot_worker;

create policy toys_writer on app.toys to jewelshot_ledger using (true) with check (true);
create policy toys_own on app.toys for select to jewelshot_user
  using (user_id = (select app.current_user_id()));
create policy toys_worker on app.toys for select to jewelshot_worker using (true);

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.start_toy(p_id uuid, p_shine integer)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if app.current_user_id() is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  insert into app.toys (id, user_id, shine)
  values (p_id, app.current_user_id(), p_shine);
  perform app.add_task('toy.polish', jsonb_build_object('toy_id', p_id), p_id::text);
end $$;
comment on function app.start_toy is
$$Has a toy of the caller polished. Errors: JS401.$$;

create function app.polish_toy(p_id uuid)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_toy app.toys;
begin
  update app.toys
  set shine = shine + 1, polished_at = app.now()
  where id = p_id
    and polished_at is null
  returning * into v_toy;
  if found then
    perform app.emit(
      v_toy.user_id, 'toy.polished', p_id, 1, jsonb_build_object('shine', v_toy.shine));
  end if;
end $$;
comment on function app.polish_toy is
$$Polishes a toy once. Locks: the toy. Replay: a polished toy stays as it is.$$;

create function app.toys_figures()
  returns table (name text, labels jsonb, value double precision)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select 'jewelshot_toys', '{}'::jsonb, count(*)::double precision
  from app.toys
$$;
comment on function app.toys_figures is
$$Gauges of toys for /metrics as (name, labels, value).$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function app.start_toy(uuid, integer) to jewelshot_user;
grant execute on function app.polish_toy(uuid) to jewelshot_worker;
grant execute on function app.toys_figures() to jewelshot_api;

create function app.prove_toys()
  returns table (check_name text, table_name text, row_id text, detail jsonb)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set row_security = off
as $$
  select 'toy_shine', 'toys', id::text, jsonb_build_object('shine', shine)
  from app.toys
  where polished_at is not null
    and shine = 0
$$;
comment on function app.prove_toys is
$$A polished toy shines.$$;

grant execute on function app.prove_toys() to jewelshot_worker;
