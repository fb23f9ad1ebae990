-- Promo and gift codes: credits for whoever types one in, once a person. Of a code only its hash
-- and its first group are kept; the code itself is shown once, to the admin who made it.
-- after: base, people, events, credits, audit

create table app.codes (
  id uuid primary key,  -- minted by us, in the order of time
  issue_id uuid not null,  -- codes that were made together, on the same terms
  code_sha256 bytea not null,  -- of the 16 characters: 80 bits, so no salt and no slow hash
  prefix text not null,  -- the first group, by which people can speak of a code
  kind text not null,
  credits bigint not null,
  uses_max integer not null,
  uses integer not null default 0,
  expires_at timestamptz,  -- of the code
  credits_expire_after_days integer,  -- of what it gives, counted from redemption
  campaign text,
  note text,
  created_by text not null,
  created_at timestamptz not null default app.now(),
  disabled_at timestamptz,
  constraint codes_code_sha256 unique (code_sha256),
  constraint codes_code_sha256_length check (octet_length(code_sha256) = 32),
  constraint codes_kind check (kind in ('promo', 'gift')),
  constraint codes_credits_positive check (credits > 0),
  constraint codes_uses_max_positive check (uses_max > 0),
  constraint codes_uses_in_range check (uses between 0 and uses_max),
  constraint codes_credits_expire_after_positive check (credits_expire_after_days > 0)
);
create index codes_issue_id on app.codes (issue_id);
create index codes_campaign on app.codes (campaign, id desc) where campaign is not null;
create index codes_prefix on app.codes (prefix);

-- What each person got for each code, as it was told then: a replay answers from this row.
create table app.code_redemptions (
  code_id uuid not null references app.codes (id) on delete restrict,
  user_id uuid not null references app.users (id) on delete restrict,
  lot_id uuid not null references app.credit_lots (id) on delete restrict,
  credits bigint not null,
  paid_debt bigint not null,
  credits_expire_at timestamptz,
  redeemed_at timestamptz not null default app.now(),
  person_key text not null,  -- as of sign-up grants: two accounts of one person count once
  primary key (code_id, user_id),
  constraint code_redemptions_person unique (code_id, person_key),
  constraint code_redemptions_lot unique (lot_id),
  constraint code_redemptions_paid_debt_in_range check (paid_debt between 0 and credits)
);
create index code_redemptions_user_id on app.code_redemptions (user_id);
create index code_redemptions_newest
  on app.code_redemptions (code_id, redeemed_at desc, user_id desc);

alter table app.codes enable row level security;
alter table app.codes force row level security;
alter table app.code_redemptions enable row level security;
alter table app.code_redemptions force row level security;

revoke all on app.codes, app.code_redemptions from public, anon, authenticated, service_role;

grant select, insert, update (uses, disabled_at) on app.codes to jewelshot_ledger;
grant select, insert on app.code_redemptions to jewelshot_ledger;
-- All but the hash.
grant select (
    id, issue_id, prefix, kind, credits, uses_max, uses, expires_at, credits_expire_after_days,
    campaign, note, created_by, created_at, disabled_at
  ) on app.codes to jewelshot_admin;
-- All but the person's key.
grant select (code_id, user_id, lot_id, credits, paid_debt, credits_expire_at, redeemed_at)
  on app.code_redemptions to jewelshot_admin;

create policy codes_writer on app.codes to jewelshot_ledger using (true) with check (true);
create policy codes_admin on app.codes for select to jewelshot_admin
  using ((select app.is_admin()));
create policy code_redemptions_writer on app.code_redemptions to jewelshot_ledger
  using (true) with check (true);
create policy code_redemptions_admin on app.code_redemptions for select to jewelshot_admin
  using ((select app.is_admin()));

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.create_codes(
  p_issue_id uuid, p_kind text, p_credits bigint, p_uses_max integer, p_expires_at timestamptz,
  p_credits_expire_after_days integer, p_campaign text, p_note text, p_codes jsonb
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_field text := case
    when p_kind is null or p_kind not in ('promo', 'gift') then 'kind'
    when coalesce(p_credits, 0) <= 0 then 'credits'
    when coalesce(p_uses_max, 0) <= 0 then 'uses_max'
    when p_expires_at <= app.now() then 'expires_at'
    when p_credits_expire_after_days <= 0 then 'credits_expire_after_days'
    when coalesce(jsonb_array_length(p_codes), 0) = 0 then 'count'
  end;
begin
  perform app.require_fresh_admin();
  if v_field is not null then
    raise exception 'no terms for a code' using errcode = 'JS422', detail = jsonb_build_object(
      'field', v_field,
      'reason', case v_field when 'expires_at' then 'in_the_past' else 'out_of_range' end)::text;
  end if;
  perform pg_advisory_xact_lock(hashtextextended('codes ' || p_issue_id, 0));
  if exists (select from app.codes where issue_id = p_issue_id) then
    if exists (
      select
      from jsonb_array_elements(p_codes) as code
      where not exists (
        select
        from app.codes
        where issue_id = p_issue_id
          and code_sha256 = decode(code ->> 'sha256', 'hex')
      )
    ) then
      raise exception 'codes are shown once' using errcode = 'JS409', detail = jsonb_build_object(
        'reason', 'codes_shown_once', 'issue_id', p_issue_id)::text;
    end if;
    return;
  end if;
  insert into app.codes (
    id, issue_id, code_sha256, prefix, kind, credits, uses_max, expires_at,
    credits_expire_after_days, campaign, note, created_by
  )
  select (code ->> 'id')::uuid, p_issue_id, decode(code ->> 'sha256', 'hex'), code ->> 'prefix',
    p_kind, p_credits, p_uses_max, p_expires_at, p_credits_expire_after_days, p_campaign, p_note,
    coalesce(app.claims() ->> 'sub', 'break-glass')
  from jsonb_array_elements(p_codes) as code;
  perform app.write_audit('codes.create', p_issue_id::text, jsonb_build_object(
    'kind', p_kind, 'credits', p_credits, 'uses_max', p_uses_max, 'expires_at', p_expires_at,
    'credits_expire_after_days', p_credits_expire_after_days, 'campaign', p_campaign,
    'note', p_note, 'codes', jsonb_array_length(p_codes)));
end $$;
comment on function app.create_codes is
$$Makes codes on the same terms, audited. p_codes: [{id, sha256 (hex), prefix}].
Locks: one advisory lock, of the issue. Errors: JS403, JS422 {field, reason}, JS409.
Replay: the same issue with the same codes does nothing; with other codes, which is a repeated
request whose answer was lost, JS409 {reason: codes_shown_once, issue_id}.$$;

create function app.disable_codes(p_code_id uuid, p_issue_id uuid)
  returns bigint
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_disabled bigint;
begin
  perform app.require_admin();
  if not exists (select from app.codes where id = p_code_id or issue_id = p_issue_id) then
    raise exception 'no such code' using errcode = 'JS404', detail = jsonb_build_object(
      'kind', case when p_code_id is null then 'code_issue' else 'code' end)::text;
  end if;
  update app.codes
  set disabled_at = app.now()
  where (id = p_code_id or issue_id = p_issue_id)
    and disabled_at is null;
  get diagnostics v_disabled = row_count;
  if v_disabled > 0 then
    perform app.write_audit('codes.disable', coalesce(p_code_id, p_issue_id)::text,
      jsonb_build_object('codes', v_disabled));
  end if;
  return v_disabled;
end $$;
comment on function app.disable_codes is
$$Withdraws one code or an issue; what was redeemed stays. Audited. Returns how many it changed.
Locks: the codes. Errors: JS403, JS404. Replay: changes and records nothing more.$$;

create function app.redeem_code(p_code_sha256 bytea)
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
  v_keys text[] := array(select jsonb_array_elements_text(app.caller() -> 'person_keys'));
begin
  if app.verified_email(v_user_id) is null then
    raise exception 'the address is not verified'
      using errcode = 'JS403', detail = '{"reason": "email_not_verified"}';
  elsif coalesce(cardinality(v_keys), 0) = 0 then
    raise exception 'nobody said whose person key this is';
  end if;
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
        and person_key = any (v_keys)
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
      least(v_account.debt, v_code.credits), v_redemption.credits_expire_at, v_keys[1])
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
comment on function app.redeem_code is
$$Gives the caller the credits of a code, as a lot of their own; debt is paid first. Returns
{kind, credits, paid_debt, lot_id, credits_expire_at, redeemed_at}.
A withdrawn code looks like none, because it may have been withdrawn after a theft; for a code
that has expired or is used up the error says so: 80 bits are not guessed.
Who the person is comes from app.caller(). Locks: account, code. Errors: JS401, JS403 (banned, or the
address is not verified), JS404 (no account), JS409 (redeemed by this person under
another account), JS440 (no such code), JS441 (expired), JS442 (used up).
Replay: the same answer, whatever became of the code since.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.create_codes(uuid, text, bigint, integer, timestamptz, integer, text, text, jsonb),
  app.disable_codes(uuid, uuid)
  to jewelshot_admin;
grant execute on function app.redeem_code(bytea) to jewelshot_user;

create function app.prove_codes()
  returns table (check_name text, table_name text, row_id text, detail jsonb)
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set row_security = off
as $$
  select 'code_reason', 'credit_lots', lot.id::text, jsonb_build_object(
    'user_id', lot.user_id, 'source', lot.source, 'granted', lot.granted,
    'idempotency_key', lot.idempotency_key)
  from app.credit_lots as lot
  where lot.source in ('promo', 'gift')
    and not exists (
      select
      from app.code_redemptions as redemption
      join app.codes as code on code.id = redemption.code_id
      where redemption.lot_id = lot.id
        and redemption.user_id = lot.user_id
        and redemption.credits = lot.granted
        and code.credits = lot.granted
        and code.kind = lot.source
        and lot.idempotency_key = 'code:' || code.id || ':' || lot.user_id
    )

  union all
  select 'code_redemption', 'code_redemptions', redemption.code_id || '/' || redemption.user_id,
    jsonb_build_object('lot_id', redemption.lot_id, 'credits', redemption.credits)
  from app.code_redemptions as redemption
  left join app.credit_lots as lot
    on lot.id = redemption.lot_id
    and lot.user_id = redemption.user_id
    and lot.source in ('promo', 'gift')
    and lot.granted = redemption.credits
  where lot.id is null

  union all
  select 'code_uses', 'codes', code.id::text, jsonb_build_object(
    'uses', code.uses, 'redemptions', coalesce(redeemed.times, 0))
  from app.codes as code
  left join (
    select code_id, count(*) as times
    from app.code_redemptions
    group by code_id
  ) as redeemed on redeemed.code_id = code.id
  where code.uses <> coalesce(redeemed.times, 0)

  union all
  select 'code_issue', 'codes', made.issue_id::text, jsonb_build_object(
    'codes', made.codes, 'kind', made.kind, 'credits', made.credits, 'uses_max', made.uses_max)
  from (
    select issue_id, kind, credits, uses_max, count(*) as codes
    from app.codes
    group by issue_id, kind, credits, uses_max
  ) as made
  where not exists (
    select
    from app.audit_log as line
    left join app.audit_details as told on told.audit_id = line.id
    where line.action = 'codes.create'
      and line.target = made.issue_id::text
      and (told.detail is null
        or told.detail @> jsonb_build_object('kind', made.kind, 'credits', made.credits,
          'uses_max', made.uses_max, 'codes', made.codes))
  )
$$;
comment on function app.prove_codes is
$$Promotional and gift credits came from a code that this person redeemed, each redemption gave its
lot, and each code was made by somebody whom the audit log names.
Owned by the migrating role, which bypasses row level security; row_security = off makes a role
that would be filtered raise instead of seeing nothing.$$;

grant execute on function app.prove_codes() to jewelshot_worker;
