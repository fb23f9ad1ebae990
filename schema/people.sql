-- People by id, what sign-up gives them, and the one person behind several accounts. Free credits
-- are given once a person, at verification.
-- after: base

create table app.users (
  id uuid primary key,  -- of auth.users, without a foreign key: money history outlives the account
  created_at timestamptz not null default app.now()
);

-- Free credits are given once a person, at verification. The key is a hash of the normalised address
-- under a secret that the database does not know; see core/people/keys.py. So are the networks and
-- the mail domain, by which grants are counted.
create table app.signup_grants (
  person_key text primary key,
  user_id uuid not null references app.users (id) on delete restrict,
  network text not null,
  wide_network text,
  mail_domain text,
  granted_at timestamptz not null default app.now(),
  constraint signup_grants_user unique (user_id)
);
create index signup_grants_network on app.signup_grants (network, granted_at);
create index signup_grants_wide_network on app.signup_grants (wide_network, granted_at);
create index signup_grants_mail_domain on app.signup_grants (mail_domain, granted_at);
create index signup_grants_granted_at on app.signup_grants (granted_at);

-- Accounts that were opened without credits, and why. A purchase gives them, but for one whose
-- person had them.
create table app.signup_withheld (
  user_id uuid primary key references app.users (id) on delete restrict,
  reason text not null,
  person_keys text[] not null,
  network text not null,
  wide_network text not null,
  mail_domain text not null,
  withheld_at timestamptz not null default app.now(),
  constraint signup_withheld_reason check (reason in (
    'person_had_credits', 'disposable_address', 'network_limit', 'domain_limit', 'day_limit'))
);

-- What the operator says of a mail domain and all below it, over the list that is shipped.
create table app.mail_domains (
  domain text primary key,
  is_disposable boolean not null,
  note text,
  created_at timestamptz not null default app.now(),
  constraint mail_domains_plain check (domain = lower(domain) and domain ~ '^[a-z0-9.-]+$')
);

-- What sign-up gives, as data: changed by a migration or an admin's SQL, never by a caller.
create table app.signup_terms (
  id boolean primary key default true,
  credits bigint not null,
  expires_after interval not null,
  grants_per_network_per_day integer not null,  -- /24 of IPv4, /48 of IPv6
  grants_per_wide_network_per_day integer not null default 20,  -- /16 of IPv4, /32 of IPv6
  grants_per_own_domain_per_month integer not null default 3,
  grants_per_shared_domain_per_day integer not null default 20,
  grants_per_alias_domain_per_day integer not null default 3,
  grants_per_day integer not null default 200,
  constraint signup_terms_one_row check (id),
  constraint signup_terms_credits_positive check (credits > 0)
);

-- Row level security. Owner stays the migrating role, the writer is another role: not even a bug
-- in a function can drop, disable or rewrite.
alter table app.users enable row level security;
alter table app.users force row level security;
alter table app.signup_grants enable row level security;
alter table app.signup_grants force row level security;
alter table app.signup_withheld enable row level security;
alter table app.signup_withheld force row level security;
alter table app.mail_domains enable row level security;
alter table app.mail_domains force row level security;
alter table app.signup_terms enable row level security;
alter table app.signup_terms force row level security;

revoke all on
  app.users, app.signup_grants, app.signup_withheld, app.mail_domains, app.signup_terms
  from public, anon, authenticated, service_role;

grant select, insert on app.users to jewelshot_ledger;
grant select on app.users to jewelshot_user, jewelshot_admin, jewelshot_worker;
grant select, insert on app.signup_grants to jewelshot_ledger;
grant select, insert, update, delete on app.signup_withheld to jewelshot_ledger;
grant select (user_id, reason) on app.signup_withheld to jewelshot_user;
grant select (user_id, reason, withheld_at) on app.signup_withheld to jewelshot_admin;
grant select on app.signup_terms, app.mail_domains to jewelshot_ledger, jewelshot_admin;
grant select on app.signup_grants to jewelshot_admin;

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
create policy signup_withheld_writer on app.signup_withheld to jewelshot_ledger
  using (true) with check (true);
create policy signup_withheld_own on app.signup_withheld for select to jewelshot_user
  using (user_id = (select app.current_user_id()));
create policy signup_withheld_admin on app.signup_withheld for select to jewelshot_admin
  using ((select app.is_admin()));
create policy mail_domains_reader on app.mail_domains for select to jewelshot_ledger using (true);
create policy mail_domains_admin on app.mail_domains for select to jewelshot_admin
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

create function app.verified_address()
  returns text
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select app.verified_email(app.current_user_id())
$$;
comment on function app.verified_address is
$$The caller's own verified address, null without: what the API computes the person's key from.$$;

create function app.caller()
  returns jsonb
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(nullif(current_setting('app.caller', true), '')::jsonb, '{}'::jsonb)
$$;
comment on function app.caller is
$$What the API knows of who calls, beside the claims: {person_keys, network, wide_network,
mail_domain, mail_host, domains, is_disposable}. A setting and no argument, so that it is nobody's to
choose who may only call functions.$$;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.withholding_reason(p_caller jsonb)
  returns text
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when coalesce((
      select domain.is_disposable
      from jsonb_array_elements_text(p_caller -> 'domains') with ordinality as part (name, place)
      join app.mail_domains as domain on domain.domain = part.name
      order by part.place
      limit 1
    ), (p_caller ->> 'is_disposable')::boolean) then 'disposable_address'
    when (
      select count(*) >= terms.grants_per_network_per_day
      from app.signup_grants
      where network = p_caller ->> 'network'
        and granted_at > app.now() - interval '1 day'
    ) or (
      select count(*) >= terms.grants_per_wide_network_per_day
      from app.signup_grants
      where wide_network = p_caller ->> 'wide_network'
        and granted_at > app.now() - interval '1 day'
    ) then 'network_limit'
    when p_caller ->> 'mail_host' <> 'large' and (
      select count(*) >= case p_caller ->> 'mail_host'
          when 'shared' then terms.grants_per_shared_domain_per_day
          when 'alias' then terms.grants_per_alias_domain_per_day
          else terms.grants_per_own_domain_per_month end
      from app.signup_grants
      where mail_domain = p_caller ->> 'mail_domain'
        and granted_at > app.now() - case
          when p_caller ->> 'mail_host' in ('shared', 'alias') then interval '1 day'
          else interval '30 days' end
    ) then 'domain_limit'
    when (
      select count(*) >= terms.grants_per_day
      from app.signup_grants
      where granted_at > app.now() - interval '1 day'
    ) then 'day_limit' end
  from app.signup_terms as terms
$$;
comment on function app.withholding_reason is
$$Why a person who had no free credits gets none now, null where nothing speaks against it. The
operator's word on the nearest domain counts before the shipped list. Granted to no role.$$;

create function app.give_signup_credits(p_user_id uuid, p_caller jsonb, p_has_bought boolean)
  returns text
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_keys text[] := array(select jsonb_array_elements_text(p_caller -> 'person_keys'));
  v_terms app.signup_terms;
  v_reason text;
begin
  if coalesce(cardinality(v_keys), 0) = 0 then
    raise exception 'nobody said whose person key this is';
  end if;
  -- Whoever is counted is counted one after the other; grants are few.
  perform pg_advisory_xact_lock(hashtextextended('signup credits', 0));
  v_reason := case
    when exists (select from app.signup_grants where person_key = any (v_keys))
      then 'person_had_credits'
    when not p_has_bought then app.withholding_reason(p_caller) end;
  if v_reason is not null then
    insert into app.signup_withheld (
      user_id, reason, person_keys, network, wide_network, mail_domain
    )
    values (
      p_user_id, v_reason, v_keys, p_caller ->> 'network', p_caller ->> 'wide_network',
      p_caller ->> 'mail_domain')
    on conflict (user_id) do update
    set reason = excluded.reason, person_keys = excluded.person_keys;
    return v_reason;
  end if;
  select * into v_terms from app.signup_terms;
  delete from app.signup_withheld
  where user_id = p_user_id;
  insert into app.signup_grants (person_key, user_id, network, wide_network, mail_domain)
  values (
    v_keys[1], p_user_id, p_caller ->> 'network', p_caller ->> 'wide_network',
    p_caller ->> 'mail_domain');
  perform app.grant_credits(
    p_user_id, v_terms.credits, 'signup', 'signup:' || p_user_id,
    app.now() + v_terms.expires_after);
  return null;
end $$;
comment on function app.give_signup_credits is
$$Gives a person's free credits once, or notes why not and returns that. Expects the account's lock.
Locks: one advisory lock of all sign-ups, lots. Granted to no role.$$;

create function app.open_account()
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_reason text;
begin
  if exists (select from app.signup_grants where user_id = v_user_id) then
    return '{"opened": true, "granted": false, "credits": 0, "reason": "already_granted"}';
  end if;
  if app.verified_email(v_user_id) is null then
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
  v_reason := app.give_signup_credits(
    v_user_id, app.caller(),
    app.has_bought(v_user_id));
  return jsonb_build_object(
    'opened', true,
    'granted', v_reason is null,
    'credits', case when v_reason is null
      then (select credits from app.signup_terms) else 0 end,
    'reason', v_reason);
end $$;
comment on function app.open_account is
$$Makes the caller's account and, once the address is verified, gives the sign-up credits once.
Who the person is, and from where, comes from app.caller(). Returns {opened, granted, credits,
reason}: an account may be opened without credits, which a purchase gives later.
Locks: account, then all sign-ups. Errors: JS401, JS403. Replay: {granted: false}.$$;

create function app.give_withheld_credits()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_withheld app.signup_withheld;
begin
  select *
  into v_withheld
  from app.signup_withheld
  where user_id = new.user_id
    and reason <> 'person_had_credits';
  if found then
    perform app.give_signup_credits(
      new.user_id, jsonb_build_object(
        'person_keys', v_withheld.person_keys, 'network', v_withheld.network,
        'wide_network', v_withheld.wide_network, 'mail_domain', v_withheld.mail_domain),
      true);
  end if;
  return null;
end $$;
comment on function app.give_withheld_credits is
$$Trigger, when an order is paid: who bought is no throw-away account, and gets the free credits that
were withheld. Expects the account's lock, which whoever settles an order holds.$$;

create function app.people_figures()
  returns table (name text, labels jsonb, value double precision)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select 'signup_grants_last_day', '{}'::jsonb, count(*)::double precision
  from app.signup_grants
  where granted_at > app.now() - interval '1 day'

  union all
  select 'signup_grants_per_day_max', '{}', grants_per_day
  from app.signup_terms

  union all
  select 'signup_credits_withheld_last_day', jsonb_build_object('reason', reason), count(*)
  from app.signup_withheld
  where withheld_at > app.now() - interval '1 day'
  group by reason
$$;
comment on function app.people_figures is
$$For /metrics: free credits given and withheld.$$;

create function app.people_health()
  returns table (granted integer, limit_per_day integer)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select (
      select count(*)::integer
      from app.signup_grants
      where granted_at > app.now() - interval '1 day'
    ), grants_per_day
  from app.signup_terms
$$;
comment on function app.people_health is
$$For /readyz: how many accounts got free credits in a day, and how many may.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.verified_email(uuid),
  app.caller()
  to jewelshot_ledger;
grant execute on function
  app.verified_address(),
  app.open_account()
  to jewelshot_user;
grant execute on function
  app.people_figures(),
  app.people_health()
  to jewelshot_api;
