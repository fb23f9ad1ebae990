-- Way back of who had free credits

set local lock_timeout = '5s';
set local statement_timeout = '60s';

drop trigger orders_paid on app.orders;

drop policy mail_domains_admin on app.mail_domains;

drop policy mail_domains_reader on app.mail_domains;

drop policy signup_withheld_admin on app.signup_withheld;

drop policy signup_withheld_own on app.signup_withheld;

drop policy signup_withheld_writer on app.signup_withheld;

drop function app.caller();

drop function app.give_signup_credits(uuid,jsonb,boolean);

drop function app.give_withheld_credits();

drop function app.open_account();

drop function app.people_figures();

drop function app.people_health();

drop function app.verified_address();

drop function app.withholding_reason(jsonb);

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.open_account(p_network text)
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

create or replace function app.redeem_code(p_code_sha256 bytea)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_account app.credit_accounts;
  v_code app.codes;
  v_redemption app.code_redemptions;
  v_email text := app.verified_email(v_user_id);
  v_person_key text := case when v_email is null then v_user_id::text
    else app.person_key(v_email) end;
begin
  v_account := app.lock_account(v_user_id);
  select *
  into v_code
  from app.codes
  where code_sha256 = p_code_sha256
  for no key update;
  if not found then
    raise exception 'no such code' using errcode = 'JS440';
  end if;
  select *
  into v_redemption
  from app.code_redemptions
  where code_id = v_code.id
    and user_id = v_user_id;
  if not found then
    if v_code.disabled_at is not null then
      raise exception 'no such code' using errcode = 'JS440';
    elsif v_code.expires_at <= app.now() then
      raise exception 'code has expired' using errcode = 'JS441', detail = jsonb_build_object(
        'expired_at', v_code.expires_at)::text;
    elsif v_code.uses >= v_code.uses_max then
      raise exception 'code is used up' using errcode = 'JS442';
    elsif exists (
      select
      from app.code_redemptions
      where code_id = v_code.id
        and person_key = v_person_key
    ) then
      raise exception 'once a person' using errcode = 'JS409',
        detail = '{"reason": "redeemed_with_another_account"}';
    end if;
    v_redemption.credits_expire_at :=
      app.now() + make_interval(days => v_code.credits_expire_after_days);
    v_redemption.lot_id := app.grant_credits(
      v_user_id, v_code.credits, v_code.kind, 'code:' || v_code.id || ':' || v_user_id,
      v_redemption.credits_expire_at, null, 'user', 'code ' || v_code.prefix);
    update app.codes
    set uses = uses + 1
    where id = v_code.id;
    insert into app.code_redemptions (
      code_id, user_id, lot_id, credits, paid_debt, credits_expire_at, person_key
    )
    values (v_code.id, v_user_id, v_redemption.lot_id, v_code.credits,
      least(v_account.debt, v_code.credits), v_redemption.credits_expire_at, v_person_key)
    returning * into v_redemption;
    perform app.emit(
      v_user_id, 'code.redeemed', v_code.id, null,
      jsonb_build_object('kind', v_code.kind, 'credits', v_redemption.credits,
        'paid_debt', v_redemption.paid_debt, 'lot_id', v_redemption.lot_id));
  end if;
  return jsonb_build_object(
    'kind', v_code.kind, 'credits', v_redemption.credits, 'paid_debt', v_redemption.paid_debt,
    'lot_id', v_redemption.lot_id, 'credits_expire_at', v_redemption.credits_expire_at,
    'redeemed_at', v_redemption.redeemed_at);
end $$;

comment on function app.open_account is
$$Makes the caller's account and, once the address is verified, gives the sign-up credits once.
Returns {opened, granted, credits, reason}. Locks: account. Errors: JS401.
Replay: {granted: false}. A person or network that had its share gets the account, no credits.$$;

comment on function app.redeem_code is
$$Gives the caller the credits of a code, as a lot of their own; debt is paid first. Returns
{kind, credits, paid_debt, lot_id, credits_expire_at, redeemed_at}.
A withdrawn code looks like none, because it may have been withdrawn after a theft; for a code
that has expired or is used up the error says so: 80 bits are not guessed.
Locks: account, code. Errors: JS401, JS404 (no account), JS409 (redeemed by this person under
another account), JS440 (no such code), JS441 (expired), JS442 (used up).
Replay: the same answer, whatever became of the code since.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

create or replace function app.person_key(p_email text)
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

revoke delete on app.signup_withheld from jewelshot_ledger;

grant execute on function app.open_account(text) to jewelshot_user;

grant execute on function app.person_key(text) to jewelshot_ledger;

revoke insert on app.signup_withheld from jewelshot_ledger;

revoke select (reason) on app.signup_withheld from jewelshot_admin;

revoke select (reason) on app.signup_withheld from jewelshot_user;

revoke select (user_id) on app.signup_withheld from jewelshot_admin;

revoke select (user_id) on app.signup_withheld from jewelshot_user;

revoke select (withheld_at) on app.signup_withheld from jewelshot_admin;

revoke select on app.mail_domains from jewelshot_admin;

revoke select on app.mail_domains from jewelshot_ledger;

revoke select on app.signup_withheld from jewelshot_ledger;

revoke update on app.signup_withheld from jewelshot_ledger;

drop table app.signup_withheld;
drop table app.mail_domains;

alter table app.signup_grants
  drop column wide_network,
  drop column mail_domain;
drop index app.signup_grants_granted_at;

alter table app.signup_terms
  drop column grants_per_wide_network_per_day,
  drop column grants_per_own_domain_per_month,
  drop column grants_per_shared_domain_per_day,
  drop column grants_per_alias_domain_per_day,
  drop column grants_per_day;
