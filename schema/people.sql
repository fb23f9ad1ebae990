-- People by id, what sign-up gives them, and the one person behind several accounts. Free credits
-- are given once a person, at verification.
-- after: base

create table app.users (
  id uuid primary key,  -- of auth.users, without a foreign key: money history outlives the account
  created_at timestamptz not null default app.now()
);

-- Free credits are given once a person, at verification. The key is the normalised address's hash.
create table app.signup_grants (
  person_key text primary key,
  user_id uuid not null references app.users (id) on delete restrict,
  network text not null,
  granted_at timestamptz not null default app.now(),
  constraint signup_grants_user unique (user_id)
);
create index signup_grants_network on app.signup_grants (network, granted_at);

-- What sign-up gives, as data: changed by a migration or an admin's SQL, never by a caller.
create table app.signup_terms (
  id boolean primary key default true,
  credits bigint not null,
  expires_after interval not null,
  grants_per_network_per_day integer not null,
  constraint signup_terms_one_row check (id),
  constraint signup_terms_credits_positive check (credits > 0)
);

-- Row level security. Owner stays the migrating role, the writer is another role: not even a bug
-- in a function can drop, disable or rewrite.
alter table app.users enable row level security;
alter table app.users force row level security;
alter table app.signup_grants enable row level security;
alter table app.signup_grants force row level security;
alter table app.signup_terms enable row level security;
alter table app.signup_terms force row level security;

revoke all on
  app.users, app.signup_grants, app.signup_terms
  from public, anon, authenticated, service_role;

grant select, insert on app.users to jewelshot_ledger;
grant select on app.users to jewelshot_user, jewelshot_admin, jewelshot_worker;
grant select, insert on app.signup_grants to jewelshot_ledger;
grant select on app.signup_terms to jewelshot_ledger;
grant select on app.signup_grants, app.signup_terms to jewelshot_admin;

create policy users_writer on app.users to jewelshot_ledger using (true) with check (true);
create policy users_own on app.users for select to jewelshot_user
  using (id = (select app.current_user_id()));
create policy users_admin on app.users for select to jewelshot_admin
  using ((select app.is_admin()));
create policy users_worker on app.users for select to jewelshot_worker using (true);
create policy signup_grants_writer on app.signup_grants to jewelshot_ledger
  using (true) with check (true);
create policy signup_grants_admin on app.signup_grants for select to jewelshot_admin
  using ((select app.is_admin()));
create policy signup_terms_reader on app.signup_terms for select to jewelshot_ledger using (true);
create policy signup_terms_admin on app.signup_terms for select to jewelshot_admin
  using ((select app.is_admin()));

create function app.verified_email(p_user_id uuid)
  returns text
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select lower(email)
  from auth.users
  where id = p_user_id
    and email_confirmed_at is not null
    and deleted_at is null
$$;
comment on function app.verified_email is
$$The verified address of a user. Owned by the migrating role, the only one that may read the
auth schema; granted to the ledger alone.$$;

create function app.person_key(p_email text)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select encode(sha256(convert_to(
    case when domain in ('gmail.com', 'googlemail.com')
      then replace(name, '.', '') || '@gmail.com'
      else name || '@' || domain end, 'utf8')), 'hex')
  from (
    select split_part(split_part(lower(p_email), '@', 1), '+', 1) as name,
      split_part(lower(p_email), '@', 2) as domain
  ) as parts
$$;
comment on function app.person_key is
$$One person, however the address is written: case, +tags, and the dots that Gmail ignores.$$;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.open_account(p_network text)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_email text;
  v_terms app.signup_terms;
begin
  if exists (select from app.signup_grants where user_id = v_user_id) then
    return '{"opened": true, "granted": false, "credits": 0, "reason": "already_granted"}';
  end if;
  v_email := app.verified_email(v_user_id);
  if v_email is null then
    return '{"opened": false, "granted": false, "credits": 0, "reason": "email_not_verified"}';
  end if;
  insert into app.users (id)
  values (v_user_id)
  on conflict do nothing;
  insert into app.credit_accounts (user_id)
  values (v_user_id)
  on conflict do nothing;
  perform app.lock_account(v_user_id);
  if exists (select from app.signup_grants where user_id = v_user_id) then
    return '{"opened": true, "granted": false, "credits": 0, "reason": "already_granted"}';
  end if;
  select *
  into v_terms
  from app.signup_terms;
  -- Two accounts from one network at the same moment count one after the other.
  perform pg_advisory_xact_lock(hashtextextended('signup ' || p_network, 0));
  if (
    select count(*) >= v_terms.grants_per_network_per_day
    from app.signup_grants
    where network = p_network
      and granted_at > app.now() - interval '1 day'
  ) then
    return '{"opened": true, "granted": false, "credits": 0, "reason": "network_limit"}';
  end if;
  insert into app.signup_grants (person_key, user_id, network)
  values (app.person_key(v_email), v_user_id, p_network)
  on conflict do nothing;
  if not found then
    return '{"opened": true, "granted": false, "credits": 0, "reason": "person_had_credits"}';
  end if;
  perform app.grant_credits(
    v_user_id, v_terms.credits, 'signup', 'signup:' || v_user_id,
    app.now() + v_terms.expires_after);
  return jsonb_build_object(
    'opened', true, 'granted', true, 'credits', v_terms.credits, 'reason', null);
end $$;
comment on function app.open_account is
$$Makes the caller's account and, once the address is verified, gives the sign-up credits once.
Returns {opened, granted, credits, reason}. Locks: account. Errors: JS401.
Replay: {granted: false}. A person or network that had its share gets the account, no credits.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.verified_email(uuid),
  app.person_key(text)
  to jewelshot_ledger;
grant execute on function app.open_account(text) to jewelshot_user;
