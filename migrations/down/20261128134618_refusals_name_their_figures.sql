-- Way back of refusals name their figures

set local lock_timeout = '5s';
set local statement_timeout = '60s';

drop function app.require_input(jsonb,numeric,numeric);

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.refund(
  p_user_id uuid, p_purpose text, p_subject_id uuid, p_charged bigint default 0
)
  returns boolean
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_account app.credit_accounts := app.lock_account(p_user_id);
  v_reservation app.reservations;
  v_to_debt bigint;
  v_key text := p_purpose || ':' || p_subject_id;
begin
  select *
  into v_reservation
  from app.reservations
  where subject_id = p_subject_id
    and purpose = p_purpose
    and user_id = p_user_id
  for no key update;
  if not found then
    raise exception 'no reservation' using errcode = 'JS404', detail = '{"kind": "reservation"}';
  end if;
  if v_reservation.confirmed_amount = p_charged then
    return false;
  end if;
  if v_reservation.state <> 'pending' then
    raise exception 'reservation has ended otherwise' using errcode = 'JS409', detail =
      jsonb_build_object('reason', 'reservation_' || v_reservation.state)::text;
  end if;
  if p_charged not between 0 and v_reservation.amount - 1 then
    raise exception 'a share is less than the whole' using errcode = 'JS500', detail =
      jsonb_build_object('subject_id', p_subject_id)::text;
  end if;
  -- What is left of an expired lot expires first: only what is refunded is extended.
  perform app.expire_due_lots(p_user_id);
  update app.reservations
  set state = case p_charged when 0 then 'refunded' else 'confirmed' end,
    resolved_at = app.now(),
    confirmed_amount = p_charged
  where id = v_reservation.id;
  if p_charged > 0 then
    insert into app.ledger_transfers (
      idempotency_key, kind, debit, credit, amount, user_id, reservation_id, subject_id
    )
    values ('confirm:' || v_key, 'confirm', 'reserved', 'usage', p_charged,
      p_user_id, v_reservation.id, p_subject_id);
  end if;
  v_to_debt := least(v_account.debt, v_reservation.amount - p_charged);
  -- What is charged and what pays debt comes from the lots that would expire first, so the user
  -- keeps the longest-lived.
  with ordered as (
    select link.lot_id,
      link.amount,
      sum(link.amount) over (
        order by lot.expires_at nulls last, lot.is_paid, lot.created_at, lot.id) as through
    from app.reservation_lots as link
    join app.credit_lots as lot on lot.id = link.lot_id
    where link.reservation_id = v_reservation.id
  ), uncharged as (
    select lot_id, least(amount, through - p_charged) as amount, through - p_charged as through
    from ordered
    where through > p_charged
  ), parts as (
    select lot_id, least(amount, greatest(through - v_to_debt, 0)) as to_lot, amount
    from uncharged
  ), returned as (
    update app.credit_lots as lot
    set remaining = lot.remaining + parts.to_lot,
      expires_at = case
        when lot.expires_at <= app.now() then app.now() + interval '7 days' else lot.expires_at end
    from parts
    where lot.id = parts.lot_id
      and parts.to_lot > 0
    returning lot.id, lot.expires_at
  )
  insert into app.ledger_transfers (
    idempotency_key, kind, debit, credit, amount,
    user_id, lot_id, reservation_id, subject_id, lot_expires_at
  )
  select 'refund:' || v_key || case line.credit when 'debt' then ':debt:' else ':' end
      || parts.lot_id,
    'refund', 'reserved', line.credit, line.amount,
    p_user_id, parts.lot_id, v_reservation.id, p_subject_id,
    case line.credit when 'available' then returned.expires_at end
  from parts
  left join returned on returned.id = parts.lot_id
  cross join lateral (
    values ('debt', parts.amount - parts.to_lot), ('available', parts.to_lot)
  ) as line (credit, amount)
  where line.amount > 0;
  perform app.move_balance(
    p_user_id, v_reservation.amount - p_charged - v_to_debt, -v_reservation.amount, -v_to_debt);
  return true;
end $$;

create or replace function app.require_paid_work(p_user_id uuid)
  returns void
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_used bigint;
  v_terms app.unpaid_terms;
  v_limit bigint;
  v_paid bigint;
  v_free_at timestamptz;
begin
  select coalesce(sum(credits), 0) into v_used from app.unpaid_work(p_user_id);
  if v_used = 0 then
    return;
  end if;
  select * into v_terms from app.unpaid_terms;
  select case when count(*) > 0 then v_terms.buyer_credits_per_day
      else v_terms.credits_per_day end,
    coalesce(sum(credits - credits_reversed) filter (
      where paid_at > app.now() - interval '1 day'), 0)
  into v_limit, v_paid
  from app.orders
  where user_id = p_user_id
    and paid_at is not null
    and amount_total > 0
    and credits_reversed < credits
    and state not in ('disputed', 'charged_back');
  select v_paid + coalesce(sum(charged_credits), 0)
  into v_paid
  from app.generations
  where user_id = p_user_id
    and created_at > app.now() - interval '4 days'
    and finished_at > app.now() - interval '1 day';
  if v_used < v_limit + v_paid then
    return;
  end if;
  select min(at) + interval '1 day'
  into v_free_at
  from (
    select finished_at as at, sum(credits) over (order by finished_at) as until_then
    from app.unpaid_work(p_user_id)
  ) as work
  where v_used - until_then < v_limit + v_paid;
  raise exception 'too much unpaid work'
    using errcode = 'JS429', detail = jsonb_build_object(
      'reason', 'unpaid_work', 'limit', v_limit, 'used', v_used,
      'retry_after_seconds', ceil(extract(epoch from v_free_at - app.now())))::text;
end $$;

reset role;
revoke create on schema app from jewelshot_ledger;

create or replace function app.require_possible(
  p_operation app.operations, p_width integer, p_height integer, p_params jsonb
)
  returns void
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_step jsonb;
  v_width numeric := p_width;
  v_height numeric := p_height;
  v_limit numeric;
  v_factor numeric;
  v_factor_min numeric;
  v_photo jsonb := jsonb_build_object('width', p_width, 'height', p_height);
  v_fault jsonb;
begin
  for v_step in select value from jsonb_array_elements(p_operation.steps) loop
    if least(v_width, v_height) < (v_step -> 'limits' ->> 'input_side_min')::numeric then
      v_fault := jsonb_build_object('field', 'upload_id', 'reason', 'photo_too_small_for_step',
        'side_min', v_step -> 'limits' -> 'input_side_min');
    elsif greatest(v_width, v_height) > (v_step -> 'limits' ->> 'input_side_max')::numeric then
      v_fault := jsonb_build_object('field', 'upload_id', 'reason', 'photo_too_long_for_step',
        'side_max', v_step -> 'limits' -> 'input_side_max');
    elsif v_width * v_height > (v_step -> 'limits' ->> 'input_pixels_max')::numeric then
      v_fault := jsonb_build_object('field', 'upload_id', 'reason', 'photo_too_large_for_step',
        'limit_pixels', v_step -> 'limits' -> 'input_pixels_max');
    end if;
    exit when v_fault is not null;
    v_factor := app.step_factor(p_operation, v_step, p_params);
    exit when v_factor is null;
    v_limit := (v_step -> 'limits' ->> 'output_pixels_max')::numeric;
    if v_width * v_height * v_factor * v_factor > v_limit then
      v_factor_min := coalesce((p_operation.params_schema -> 'properties'
        -> (v_step -> 'limits' ->> 'enlarged_by') ->> 'minimum')::numeric, 1);
      v_fault := case
        when v_width * v_height * v_factor_min * v_factor_min > v_limit then jsonb_build_object(
          'field', 'upload_id', 'reason', 'photo_too_large_to_enlarge',
          'factor', v_factor_min,
          'output_pixels', v_limit,
          'limit_pixels', trunc(v_limit / (v_factor_min * v_factor_min)))
        else jsonb_build_object(
          'field', 'params', 'reason', 'factor_too_large', 'factor', v_factor,
          'factor_max', trunc(sqrt(v_limit / (v_width * v_height)), 2),
          'output_pixels', v_limit) end;
    end if;
    exit when v_fault is not null;
    v_width := v_width * v_factor;
    v_height := v_height * v_factor;
  end loop;
  if v_fault is not null then
    raise exception 'this cannot succeed'
      using errcode = 'JS422', detail = (v_photo || v_fault)::text;
  end if;
end $$;
