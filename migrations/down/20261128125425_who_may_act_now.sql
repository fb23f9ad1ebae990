-- Way back of who may act now

set local lock_timeout = '5s';
set local statement_timeout = '60s';

drop function app.admin_refusal();

drop function app.require_admin();

drop function app.require_person();

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
  if not app.is_admin() then
    raise exception 'admins only' using errcode = 'JS403', detail = '{"reason": "admin_required"}';
  end if;
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
  p_return_id uuid, p_order_id uuid, p_amount bigint, p_reason text, p_key text
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
  v_amount bigint;
  v_terms jsonb := jsonb_build_object('amount', p_amount, 'reason', p_reason, 'key', p_key);
begin
  if not app.is_admin() then
    raise exception 'admins only' using errcode = 'JS403', detail = '{"reason": "admin_required"}';
  end if;
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
  v_order := app.returnable_order(p_order_id, v_user_id);
  v_amount := coalesce(p_amount, v_order.amount_total - v_order.amount_returned);
  if v_amount not between 1 and v_order.amount_total - v_order.amount_returned then
    raise exception 'more than left' using errcode = 'JS422', detail = jsonb_build_object(
      'field', 'amount', 'reason', 'more_than_left',
      'left', v_order.amount_total - v_order.amount_returned)::text;
  end if;
  perform app.open_return(p_return_id, v_order, v_amount, 'admin', p_reason, p_key);
  perform app.write_audit('payment.refund', p_order_id::text, v_terms);
  return p_return_id;
end $$;

create or replace function app.buy_late_image(p_id uuid, p_generation_id uuid)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_image app.late_images;
  v_old app.generations;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  perform app.lock_account(v_user_id);
  select *
  into v_image
  from app.late_images
  where generation_id = p_generation_id
    and user_id = v_user_id
  for no key update;
  if not found then
    raise exception 'no late image' using errcode = 'JS404', detail = '{"kind": "late_image"}';
  end if;
  select *
  into v_old
  from app.generations
  where id = p_generation_id;
  if v_image.bought_as = p_id then
    return jsonb_build_object('cost_credits', v_old.cost_credits);
  end if;
  if v_image.bought_as is not null then
    raise exception 'already bought'
      using errcode = 'JS409', detail = jsonb_build_object(
        'reason', 'already_bought', 'generation_id', v_image.bought_as)::text;
  end if;
  if v_image.expires_at <= app.now() then
    raise exception 'late image expired' using errcode = 'JS410', detail = '{"kind": "late_image"}';
  end if;
  perform app.reserve(v_user_id, v_old.cost_credits, 'run', p_id);
  perform app.confirm(v_user_id, 'run', p_id);
  insert into app.generations (
    id, user_id, upload_id, operation, operation_version, lane, cost_credits, params, priority,
    retry_of, state, input_key, give_up_at, deadline_at, result, finished_at
  )
  values (
    p_id, v_user_id, v_old.upload_id, v_old.operation, v_old.operation_version, v_old.lane,
    v_old.cost_credits, v_old.params, v_old.priority, v_old.id, 'succeeded', v_old.input_key,
    app.now(), app.now(), v_image.result, app.clock_now());
  update app.late_images
  set bought_as = p_id
  where generation_id = p_generation_id;
  return jsonb_build_object('cost_credits', v_old.cost_credits);
end $$;

create or replace function app.cancel_generation(p_id uuid)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_generation app.generations;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  perform app.lock_account(v_user_id);
  select *
  into v_generation
  from app.generations
  where id = p_id
    and user_id = v_user_id
  for no key update;
  if not found then
    raise exception 'no such generation'
      using errcode = 'JS404', detail = '{"kind": "generation"}';
  end if;
  if v_generation.state = 'cancelled' then
    return app.generation_change(v_generation);
  end if;
  if v_generation.finished_at is not null then
    raise exception 'generation has ended'
      using errcode = 'JS409', detail = jsonb_build_object(
        'reason', 'already_finished', 'state', v_generation.state)::text;
  end if;
  if v_generation.state = 'queued' then
    return app.finish_generation(p_id, null, 'cancelled', '{"ending": "cancelled"}');
  end if;
  update app.generations
  set cancel_requested_at = coalesce(cancel_requested_at, app.now())
  where id = p_id
  returning * into v_generation;
  perform app.add_task(
    'provider_call.cancel', jsonb_build_object('call_id', v_generation.current_call_id),
    v_generation.current_call_id::text);
  return app.generation_change(v_generation);
end $$;

create or replace function app.complete_upload(p_id uuid, p_source_format text, p_size_bytes bigint)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_state text;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  select state
  into v_state
  from app.uploads
  where id = p_id
    and user_id = v_user_id
  for no key update;
  if not found then
    raise exception 'no such upload' using errcode = 'JS404', detail = '{"kind": "upload"}';
  end if;
  if v_state = 'expired' then
    raise exception 'upload expired'
      using errcode = 'JS409', detail = '{"reason": "upload_expired", "state": "expired"}';
  end if;
  if v_state <> 'pending' then
    return null;
  end if;
  update app.uploads
  set state = 'stored', source_format = p_source_format, size_bytes = p_size_bytes
  where id = p_id;
  return app.add_task(
    'upload.normalise', jsonb_build_object('upload_id', p_id), p_id::text);
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
  if not app.is_admin() then
    raise exception 'admins only' using errcode = 'JS403', detail = '{"reason": "admin_required"}';
  end if;
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

create or replace function app.delete_upload(p_id uuid)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_upload app.uploads;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  select *
  into v_upload
  from app.uploads
  where id = p_id
    and user_id = v_user_id
  for update;
  if not found then
    raise exception 'no such upload' using errcode = 'JS404', detail = '{"kind": "upload"}';
  end if;
  if v_upload.state = 'stored' then
    raise exception 'upload is being processed'
      using errcode = 'JS409', detail = '{"reason": "upload_in_work", "state": "stored"}';
  end if;
  if exists (select from app.generations where upload_id = p_id) then
    raise exception 'upload is in use'
      using errcode = 'JS409', detail = jsonb_build_object(
        'reason', 'upload_in_use', 'state', v_upload.state)::text;
  end if;
  delete from app.uploads
  where id = p_id;
  perform app.erase_upload(v_upload);
end $$;

create or replace function app.disable_codes(p_code_id uuid, p_issue_id uuid)
  returns bigint
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_disabled bigint;
begin
  if not app.is_admin() then
    raise exception 'admins only' using errcode = 'JS403', detail = '{"reason": "admin_required"}';
  end if;
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

create or replace function app.discard_upload(p_id uuid)
  returns boolean
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_upload app.uploads;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  delete from app.uploads
  where id = p_id
    and user_id = v_user_id
    and state = 'pending'
  returning * into v_upload;
  if not found then
    return false;
  end if;
  perform app.erase_upload(v_upload);
  return true;
end $$;

create or replace function app.open_account(p_network text)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_email text;
  v_terms app.signup_terms;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
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

create or replace function app.prepare_upload(
  p_id uuid, p_storage_key text, p_file_name text, p_signed_seconds double precision default null
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.current_user_id();
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  if (
    select count(*) >= 200
    from app.uploads
    where user_id = v_user_id
      and state = 'pending'
  ) then
    raise exception 'too many unfinished uploads'
      using errcode = 'JS429', detail = '{"reason": "unfinished_uploads", "limit": 200}';
  end if;
  insert into app.uploads (id, user_id, storage_key, file_name, signed_until)
  values (
    p_id, v_user_id, p_storage_key, left(p_file_name, 255),
    app.now() + make_interval(secs => p_signed_seconds))
  on conflict (id) do update
  set signed_until = greatest(uploads.signed_until, excluded.signed_until)
  where uploads.user_id = v_user_id
    and uploads.state = 'pending';
  if not found and not exists (
    select from app.uploads where id = p_id and user_id = v_user_id
  ) then
    raise exception 'upload id taken' using errcode = 'JS409', detail = '{"reason": "id_taken"}';
  end if;
end $$;

create or replace function app.redeem_code(p_code_sha256 bytea)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_account app.credit_accounts;
  v_code app.codes;
  v_redemption app.code_redemptions;
  v_email text := app.verified_email(v_user_id);
  v_person_key text := case when v_email is null then v_user_id::text
    else app.person_key(v_email) end;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
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

create or replace function app.replay_dead_letter(p_id uuid)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_letter app.dead_letters;
  v_task_id uuid;
begin
  if not app.is_admin() then
    raise exception 'admins only' using errcode = 'JS403', detail = '{"reason": "admin_required"}';
  end if;
  select *
  into v_letter
  from app.dead_letters
  where id = p_id
  for no key update;
  if not found then
    raise exception 'no such dead letter'
      using errcode = 'JS404', detail = '{"kind": "dead_letter"}';
  end if;
  if v_letter.replayed_as is not null then
    return v_letter.replayed_as;
  end if;
  v_task_id := app.add_task(
    v_letter.job, v_letter.args, coalesce(v_letter.dedupe_key, 'replay:' || p_id));
  update app.dead_letters
  set replayed_at = app.now(), replayed_as = v_task_id
  where id = p_id;
  perform app.write_audit(
    'dead_letter.replay', p_id::text, jsonb_build_object('job', v_letter.job));
  return v_task_id;
end $$;

create or replace function app.replay_stripe_events(
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
  if not app.is_admin() then
    raise exception 'admins only' using errcode = 'JS403', detail = '{"reason": "admin_required"}';
  end if;
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

create or replace function app.request_order_sync(p_order_id uuid)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_order app.orders;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  select *
  into v_order
  from app.orders
  where id = p_order_id
    and user_id = v_user_id;
  if not found then
    raise exception 'no such order' using errcode = 'JS404', detail = '{"kind": "order"}';
  end if;
  if v_order.state not in ('created', 'open', 'processing', 'expired')
    or v_order.fetch_started_at > app.clock_now() - interval '1 second'
    or exists (
      select
      from app.outbox
      where job = 'payment.sync'
        and dedupe_key = p_order_id::text
        and failures <> '{}')
  then
    return;
  end if;
  perform app.add_task(
    'payment.sync', jsonb_build_object('order_id', p_order_id), p_order_id::text);
end $$;

create or replace function app.request_return(
  p_return_id uuid, p_order_id uuid, p_credits bigint, p_reason text
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_days integer;
  v_order app.orders;
  v_unused bigint;
  v_target numeric;
  v_returned bigint;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  perform app.lock_account(v_user_id);
  if exists (select from app.payment_returns where id = p_return_id and user_id = v_user_id) then
    return;
  end if;
  v_order := app.returnable_order(p_order_id, v_user_id);
  select return_days into v_days from app.payment_terms;
  if v_order.paid_at is null then
    raise exception 'in review' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', 'in_review', 'state', v_order.state)::text;
  end if;
  if v_order.paid_at < app.now() - make_interval(days => v_days) then
    raise exception 'too late' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', 'time_over', 'refund_days', v_days)::text;
  end if;
  -- Only the lot that the order itself paid, and no more than its money has not gone back for.
  select least(coalesce(sum(remaining), 0), v_order.credits - v_order.credits_reversed)
  into v_unused
  from app.credit_lots
  where user_id = v_user_id
    and source = 'purchase'
    and idempotency_key = 'order:' || p_order_id;
  if v_unused = 0 then
    raise exception 'nothing unused' using errcode = 'JS409',
      detail = '{"reason": "all_spent"}';
  end if;
  if p_credits not between 1 and v_unused then
    raise exception 'more than unused' using errcode = 'JS422', detail = jsonb_build_object(
      'field', 'credits', 'reason', 'more_than_unused', 'left', v_unused)::text;
  end if;
  -- The smallest amount of money that is worth so many credits, and never more than they are.
  v_target := v_order.credits_reversed + coalesce(p_credits, v_unused);
  v_returned := ceil(v_order.amount_total * v_target / v_order.credits);
  if v_order.credits * v_returned / v_order.amount_total > v_target then
    v_returned := floor(v_order.amount_total * v_target / v_order.credits);
  end if;
  if v_returned <= v_order.amount_returned then
    raise exception 'worth nothing' using errcode = 'JS422', detail =
      '{"field": "credits", "reason": "worth_nothing"}';
  end if;
  perform app.open_return(
    p_return_id, v_order, v_returned - v_order.amount_returned, 'buyer', p_reason, null);
end $$;

create or replace function app.retry_order(p_order_id uuid, p_attempt integer)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_order app.orders;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  perform app.lock_account(v_user_id);
  select *
  into v_order
  from app.orders
  where id = p_order_id
    and user_id = v_user_id
  for no key update;
  if not found then
    raise exception 'no such order' using errcode = 'JS404', detail = '{"kind": "order"}';
  end if;
  if v_order.attempt > p_attempt then
    return;
  end if;
  if v_order.state not in ('failed', 'expired') then
    raise exception 'not to be retried' using errcode = 'JS409', detail = jsonb_build_object(
      'reason', 'not_retryable', 'state', v_order.state)::text;
  end if;
  update app.orders
  set attempt = attempt + 1,
    attempted_at = app.now(),
    version = version + 1,
    state = 'created',
    expires_at = date_trunc('second', app.now()) + interval '1 hour',
    failure_reason = null,
    session_id = null,
    session_url = null
  where id = p_order_id;
end $$;

create or replace function app.start_generation(
  p_id uuid, p_operation text, p_upload_id uuid, p_params jsonb,
  p_priority smallint default 0, p_retry_of uuid default null
)
  returns jsonb
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_operation app.operations;
  v_upload app.uploads;
  v_existing app.generations;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  select *
  into v_operation
  from app.operations
  where slug = p_operation
    and is_active;
  if not found then
    raise exception 'no such operation' using errcode = 'JS404', detail = '{"kind": "operation"}';
  end if;
  select *
  into v_upload
  from app.uploads
  where id = p_upload_id
    and user_id = v_user_id
  for key share;  -- it must not be deleted between here and the insert
  if not found then
    raise exception 'no such upload' using errcode = 'JS404', detail = '{"kind": "upload"}';
  end if;
  if v_upload.state <> 'ready' then
    raise exception 'upload is not ready'
      using errcode = 'JS409', detail = jsonb_build_object(
        'reason', 'upload_not_ready', 'state', v_upload.state)::text;
  end if;
  if p_retry_of is not null and not exists (
    select from app.generations where id = p_retry_of and user_id = v_user_id
  ) then
    raise exception 'no such generation'
      using errcode = 'JS404', detail = '{"kind": "generation"}';
  end if;
  perform app.lock_account(v_user_id);
  select *
  into v_existing
  from app.generations
  where id = p_id;
  if found then
    if v_existing.user_id <> v_user_id or v_existing.operation <> p_operation
      or v_existing.upload_id <> p_upload_id or v_existing.params <> p_params
    then
      raise exception 'generation id taken'
        using errcode = 'JS409', detail = '{"reason": "id_taken"}';
    end if;
    return app.start_answer(v_existing);
  end if;
  perform app.reserve(v_user_id, v_operation.cost_credits, 'run', p_id);
  insert into app.generations (
    id, user_id, upload_id, operation, operation_version, lane, cost_credits, params, priority,
    retry_of, input_key, give_up_at, deadline_at, request_id
  )
  values (
    p_id, v_user_id, p_upload_id, v_operation.slug, v_operation.version, v_operation.lane,
    v_operation.cost_credits, p_params, p_priority, p_retry_of, v_upload.normal_key,
    app.now() + make_interval(secs => v_operation.deadline_seconds - v_operation.uncertain_seconds),
    app.now() + make_interval(secs => v_operation.deadline_seconds),
    nullif(current_setting('app.request_id', true), ''))
  returning * into v_existing;
  perform app.add_task(
    'generation.dispatch', '{}', p_id::text);
  return app.start_answer(v_existing);
end $$;

create or replace function app.start_order(p_order_id uuid, p_pack_slug text)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.current_user_id();
  v_terms app.payment_terms;
  v_pack app.packs;
  v_order_id uuid;
begin
  if v_user_id is null then
    raise exception 'no identity' using errcode = 'JS401';
  end if;
  perform app.lock_account(v_user_id);
  select * into v_terms from app.payment_terms;
  select *
  into v_pack
  from app.packs
  where slug = p_pack_slug
    and is_active;
  if not found then
    raise exception 'no such pack' using errcode = 'JS404', detail = '{"kind": "pack"}';
  end if;
  if (
    select count(*) >= v_terms.lost_disputes_max
    from app.payment_disputes
    where user_id = v_user_id
      and state = 'lost'
  ) then
    raise exception 'two lost disputes'
      using errcode = 'JS403', detail = '{"reason": "buying_stopped"}';
  end if;
  select id
  into v_order_id
  from app.orders
  where user_id = v_user_id
    and (
      id = p_order_id
      or (pack_slug = v_pack.slug
        and pack_version = v_pack.version
        and state in ('created', 'open')
        and attempted_at > app.now() - interval '25 minutes'))
  order by (id = p_order_id) desc, attempted_at desc
  limit 1;
  if found then
    return v_order_id;
  end if;
  if (
    select count(*) >= v_terms.unpaid_orders_per_hour
    from app.orders
    where user_id = v_user_id
      and paid_at is null
      and created_at > app.now() - interval '1 hour'
  ) then
    raise exception 'too many unpaid orders'
      using errcode = 'JS429', detail = jsonb_build_object(
        'reason', 'unpaid_orders', 'limit', v_terms.unpaid_orders_per_hour)::text;
  end if;
  insert into app.orders (
    id, user_id, pack_slug, pack_version, credits, unit_amount, currency, expires_at
  )
  values (p_order_id, v_user_id, v_pack.slug, v_pack.version, v_pack.credits, v_pack.unit_amount,
    v_pack.currency, date_trunc('second', app.now()) + interval '1 hour');
  return p_order_id;
end $$;

reset role;
revoke create on schema app from jewelshot_ledger;

create or replace function app.is_admin()
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    app.claims() -> 'app_metadata' ->> 'role' = 'admin' and app.claims() ->> 'aal' = 'aal2', false)
$$;

comment on function app.is_admin is
$$An admin is app_metadata.role = admin AND a second factor; user_metadata is never used.$$;

grant execute on function app.is_admin() to jewelshot_api;

grant execute on function app.is_admin() to jewelshot_ledger;

grant execute on function app.is_admin() to jewelshot_user;
