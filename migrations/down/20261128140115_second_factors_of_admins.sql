-- Way back of second factors of admins

set local lock_timeout = '5s';
set local statement_timeout = '60s';


drop policy admin_factors_writer on app.admin_factors;

drop function app.confirm_admin_factor(uuid,text);

drop function app.find_unconfirmed_factor();

drop function app.list_admin_factors();

-- With its trigger on auth.users, which only the owner of that table may drop by name.
drop function app.note_admin_role() cascade;

drop function app.report_factor();

drop function app.require_fresh_admin();

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.adjust_credits(p_user_id uuid, p_amount bigint, p_reason text, p_key text)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_account app.credit_accounts;
  v_actor text := coalesce(app.claims() ->> 'sub', 'break-glass');
  v_key text := 'admin:' || p_user_id || ':' || p_key;
  v_terms jsonb := jsonb_build_object(
    'amount', p_amount, 'reason', p_reason, 'idempotency_key', p_key);
  v_earlier jsonb;
begin
  perform app.require_admin();
  if coalesce(p_amount, 0) = 0 or coalesce(trim(p_reason), '') = ''
    or coalesce(p_key, '') = ''
  then
    raise exception 'an adjustment has an amount, a reason and a key'
      using errcode = 'JS422', detail = jsonb_build_object(
        'field', case when coalesce(p_amount, 0) = 0 then 'amount'
          when coalesce(trim(p_reason), '') = '' then 'reason' else 'idempotency_key' end,
        'reason', 'required')::text;
  end if;
  perform app.lock_account(p_user_id);
  select told.detail
  into v_earlier
  from app.audit_log as line
  join app.audit_details as told on told.audit_id = line.id
  where line.action = 'credits.adjust'
    and line.target = p_user_id::text
    and told.detail ->> 'idempotency_key' = p_key;
  if v_earlier <> v_terms then
    raise exception 'adjustment key used with other terms' using errcode = 'JS432';
  end if;
  if v_earlier is null then
    if p_amount > 0 then
      perform app.grant_credits(
        p_user_id, p_amount, 'adjustment', v_key, null, null, v_actor, p_reason);
    else
      perform app.claw_back(
        p_user_id, -p_amount, 'adjust', 'adjustments', v_key, null, v_actor, p_reason);
    end if;
    perform app.emit(
      p_user_id, 'credits.adjusted', p_user_id, null, jsonb_build_object('credits', p_amount));
    perform app.write_audit('credits.adjust', p_user_id::text, v_terms);
  end if;
  select *
  into v_account
  from app.credit_accounts
  where user_id = p_user_id;
  return jsonb_build_object('available', v_account.available, 'reserved', v_account.reserved,
    'debt', v_account.debt);
end $$;

create or replace function app.admin_return(
  p_return_id uuid, p_order_id uuid, p_amount bigint, p_reason text, p_key text,
  p_payment_id text
)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid;
  v_order app.orders;
  v_known app.payment_returns;
  v_payment_id text;
  v_left bigint;
  v_amount bigint;
  v_terms jsonb := jsonb_strip_nulls(jsonb_build_object('payment', p_payment_id))
    || jsonb_build_object('amount', p_amount, 'reason', p_reason, 'key', p_key);
begin
  perform app.require_admin();
  select user_id into v_user_id from app.orders where id = p_order_id;
  if not found then
    raise exception 'no such order' using errcode = 'JS404', detail = '{"kind": "order"}';
  end if;
  perform app.lock_account(v_user_id);
  select *
  into v_known
  from app.payment_returns
  where order_id = p_order_id
    and idempotency_key = p_key;
  if found then
    if not exists (
      select
      from app.audit_log as line
      join app.audit_details as told on told.audit_id = line.id
      where line.action = 'payment.refund'
        and line.target = p_order_id::text
        and told.detail = v_terms
    ) then
      raise exception 'key of a return used with other terms' using errcode = 'JS432';
    end if;
    return v_known.id;
  end if;
  select * into v_order from app.orders where id = p_order_id for no key update;
  select payment_id, amount_left
  into v_payment_id, v_left
  from app.returnable_payment(v_order, p_payment_id);
  if v_payment_id is null then
    if p_payment_id <> v_order.provider_payment_id or
      (p_payment_id is not null and v_order.provider_payment_id is null)
    then
      raise exception 'no such payment' using errcode = 'JS404', detail = '{"kind": "payment"}';
    end if;
    v_order := app.returnable_order(p_order_id, v_user_id);
    v_payment_id := v_order.provider_payment_id;
    v_left := v_order.amount_total - v_order.amount_returned;
  elsif v_left <= 0 then
    raise exception 'not returnable' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', 'all_returned', 'state', v_order.state)::text;
  end if;
  v_amount := coalesce(p_amount, v_left);
  if v_amount not between 1 and v_left then
    raise exception 'more than left' using errcode = 'JS422', detail = jsonb_build_object(
      'field', 'amount', 'reason', 'more_than_left', 'left', v_left)::text;
  end if;
  perform app.open_return(
    p_return_id, v_order, v_payment_id, v_amount, 'admin', p_reason, p_key);
  perform app.write_audit('payment.refund', p_order_id::text, v_terms);
  return p_return_id;
end $$;

create or replace function app.create_codes(
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
  perform app.require_admin();
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

create or replace function app.review_order(
  p_order_id uuid, p_decision text, p_reason text, p_return_id uuid, p_key text
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid;
  v_order app.orders;
  v_left bigint;
begin
  perform app.require_admin();
  select user_id into v_user_id from app.orders where id = p_order_id;
  if not found then
    raise exception 'no such order' using errcode = 'JS404', detail = '{"kind": "order"}';
  end if;
  perform app.lock_account(v_user_id);
  select * into v_order from app.orders where id = p_order_id for no key update;
  if v_order.state <> 'review' or v_order.session_id is null then
    raise exception 'not in review' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', 'not_in_review', 'state', v_order.state)::text;
  end if;
  if p_decision = 'accepted' and v_order.review_reason = 'other_payment' then
    -- Its money has bought another order's credits already.
    raise exception 'paid for another order' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', 'return_it_instead', 'state', v_order.state)::text;
  end if;
  update app.orders
  set review_decision = p_decision, review_session_id = session_id, version = version + 1
  where id = p_order_id
  returning * into v_order;
  perform app.write_audit('order.review', p_order_id::text, jsonb_build_object(
    'decision', p_decision, 'reason', p_reason, 'review_reason', v_order.review_reason,
    'session', v_order.session_id));
  v_left := v_order.amount_total - (
    select coalesce(sum(amount), 0)
    from app.payment_returns
    where order_id = p_order_id
      and state in ('requested', 'pending', 'requires_action', 'succeeded'));
  if p_decision = 'rejected' and v_order.provider_payment_id is not null and v_left > 0 then
    perform app.open_return(
      p_return_id, v_order, v_order.provider_payment_id, v_left, 'admin', p_reason, p_key);
  else
    perform app.add_task(
      'payment.sync', jsonb_build_object('order_id', p_order_id), p_order_id::text);
  end if;
end $$;

reset role;
revoke create on schema app from jewelshot_ledger;

create or replace function app.admin_refusal()
  returns text
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_claims jsonb := app.claims();
  v_admin record;
begin
  if v_claims ->> 'role' = 'jewelshot_admin' and v_claims -> 'break_glass' = 'true' then
    return null;
  elsif v_claims -> 'app_metadata' ->> 'role' is distinct from 'admin' then
    return 'not_an_admin';
  elsif v_claims ->> 'aal' is distinct from 'aal2' then
    return 'mfa_required';
  end if;
  select session.aal, person.banned_until, person.deleted_at,
    person.raw_app_meta_data ->> 'role' as role, factor.status as factor_status
  into v_admin
  from auth.sessions as session
  join auth.users as person on person.id = session.user_id
  left join auth.mfa_factors as factor
    on factor.id = session.factor_id and factor.user_id = session.user_id
  where session.id = (v_claims ->> 'session_id')::uuid
    and session.user_id = (v_claims ->> 'sub')::uuid
    and (session.not_after is null or session.not_after > app.now());
  return case
    when not found or v_admin.deleted_at is not null then 'session_not_found'
    when v_admin.banned_until > app.now() then 'user_banned'
    when v_admin.role is distinct from 'admin' then 'not_an_admin'
    when v_admin.aal is distinct from 'aal2' or v_admin.factor_status is distinct from 'verified'
      then 'mfa_required' end;
end $$;

create or replace function app.require_admin()
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  case app.admin_refusal()
    when 'session_not_found' then
      raise exception 'the session has ended'
        using errcode = 'JS401', detail = '{"reason": "session_not_found"}';
    when 'user_banned' then
      raise exception 'the account is closed'
        using errcode = 'JS403', detail = '{"reason": "user_banned"}';
    when 'mfa_required' then
      raise exception 'this takes the second factor'
        using errcode = 'JS403', detail = '{"reason": "mfa_required"}';
    when 'not_an_admin' then
      raise exception 'admins only'
        using errcode = 'JS403', detail = '{"reason": "not_an_admin"}';
    else
      return;
  end case;
end $$;

comment on function app.admin_refusal is
$$Why the caller may not act as an admin at this moment, null where they may: the role is given both
in the token and in Auth's table, the session lives, and the factor that lifted it is still there.
The break-glass key has neither; only the API's own claims carry its role.$$;

comment on function app.require_admin is
$$What each function asks first that an admin calls, and each admin's request before anything else.
Errors: JS401 {reason: session_not_found}, JS403 {reason: not_an_admin|mfa_required|user_banned}.$$;

revoke insert on app.admin_factors from jewelshot_ledger;

revoke select on app.admin_factors from jewelshot_ledger;

revoke update on app.admin_factors from jewelshot_ledger;

drop table app.admin_factors;
