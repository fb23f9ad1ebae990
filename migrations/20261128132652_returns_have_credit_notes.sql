-- A return that reached its buyer has its credit note.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

alter table app.payment_returns
  add column credit_note_id text,
  add column credit_note_refused text;

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.mirror_returns(p_order app.orders, p_returns jsonb)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_return record;
begin
  for v_return in
    select *
    from jsonb_to_recordset(p_returns) as fetched (
      id text, payment_id text, amount bigint, state text, reason text, failure_reason text,
      return_id uuid)
  loop
    update app.payment_returns
    set provider_return_id = v_return.id,
      amount = v_return.amount,
      state = v_return.state,
      failure_reason = v_return.failure_reason,
      updated_at = app.now()
    where order_id = p_order.id
      and (provider_return_id = v_return.id
        or (provider_return_id is null and id = v_return.return_id));
    if not found then
      insert into app.payment_returns (
        order_id, user_id, amount, currency, origin, reason, state, provider_payment_id,
        provider_return_id, failure_reason
      )
      values (p_order.id, p_order.user_id, v_return.amount, p_order.currency, 'stripe',
        v_return.reason, v_return.state, v_return.payment_id, v_return.id,
        v_return.failure_reason);
    end if;
  end loop;
  perform app.add_task('return.note', jsonb_build_object('return_id', noted.id), noted.id::text)
  from app.payment_returns as noted
  join app.orders on orders.id = noted.order_id
  where noted.order_id = p_order.id
    and noted.state = 'succeeded'
    and noted.credit_note_id is null
    and noted.credit_note_refused is null
    and orders.invoice_id is not null
    and coalesce(noted.provider_payment_id, orders.provider_payment_id)
      = orders.provider_payment_id;
end $$;

create or replace function app.note_return(p_return_id uuid, p_credit_note_id text, p_refused text)
  returns void
  language sql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  update app.payment_returns
  set credit_note_id = p_credit_note_id, credit_note_refused = p_refused
  where id = p_return_id
    and credit_note_id is null
$$;

comment on function app.mirror_returns is
$$Mirrors the provider's returns of an order, and has a credit note written for each that has reached
its buyer. One of ours is known by the return_id that it was made with.$$;

comment on function app.note_return is
$$The credit note of a return, or why the provider writes none.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function app.note_return(uuid,text,text) to jewelshot_worker;
