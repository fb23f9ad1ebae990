-- Way back of the credit notes: those that were written stay at the provider.

set local lock_timeout = '5s';
set local statement_timeout = '60s';


drop function app.note_return(uuid,text,text);

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
end $$;

comment on function app.mirror_returns is
$$Mirrors the provider's returns of an order. One of ours is known by the return_id that it was made
with.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

alter table app.payment_returns
  drop column credit_note_id,
  drop column credit_note_refused;
