"""The SQL of credits. Each query names the user; row level security says whether it may be seen."""

import uuid
from collections.abc import Sequence

from psycopg.rows import DictRow

from core.db import Connection, fetch_all, fetch_one

LOTS_MAX = 500

# A lot that is past its time is not spendable, though the hourly expiry may not have posted it yet.
_BALANCE = """
select account.available - coalesce((
    select sum(lot.remaining)
    from app.credit_lots as lot
    where lot.user_id = account.user_id
      and lot.remaining > 0
      and lot.expires_at <= app.now()
  ), 0)::bigint as available,
  account.reserved,
  account.debt
from app.credit_accounts as account
where account.user_id = %(user_id)s
"""

_LOTS = """
select id, source, granted, remaining, expires_at, created_at
from app.credit_lots
where user_id = %(user_id)s
  and remaining > 0
  and (expires_at is null or expires_at > app.now())
order by expires_at nulls last, is_paid, created_at, id
limit %(limit)s
"""

# One statement, so that the balance belongs to the newest line.
_ENTRIES = """
with page as (
  select entry.id, entry.kind, entry.debit, entry.credit, entry.amount, entry.lot_id, lot.source,
    entry.lot_expires_at, entry.reservation_id, entry.subject_id, entry.reference, entry.actor,
    entry.note, entry.idempotency_key, entry.created_at,
    coalesce(entry.kind = 'confirm' and entry.amount < reservation.amount, false) as is_share
  from app.ledger_transfers as entry
  left join app.credit_lots as lot on lot.id = entry.lot_id
  left join app.reservations as reservation on reservation.id = entry.reservation_id
  where entry.user_id = %(user_id)s
    and (%(before_id)s::bigint is null or entry.id < %(before_id)s)
    and (%(subject_id)s::uuid is null or entry.subject_id = %(subject_id)s)
    and (%(kinds)s::text[] = '{}' or entry.kind = any (%(kinds)s))
  order by entry.id desc
  limit %(limit)s
)
select page.*, subject.operation,
  case when subject.operation is not null then page.subject_id end as generation_id,
  (select available from app.credit_accounts where user_id = %(user_id)s) as available,
  (select reserved from app.credit_accounts where user_id = %(user_id)s) as reserved,
  (select debt from app.credit_accounts where user_id = %(user_id)s) as debt
from page
cross join lateral app.generation_operation(page.subject_id) as subject (operation)
order by page.id desc
"""


async def find_balance(conn: Connection, user_id: uuid.UUID) -> DictRow | None:
    return await fetch_one(conn, _BALANCE, {"user_id": user_id})


async def list_lots(conn: Connection, user_id: uuid.UUID) -> list[DictRow]:
    return await fetch_all(conn, _LOTS, {"user_id": user_id, "limit": LOTS_MAX})


async def list_entries(
    conn: Connection,
    user_id: uuid.UUID,
    *,
    before_id: int | None,
    limit: int,
    kinds: Sequence[str],
    subject_id: uuid.UUID | None,
) -> list[DictRow]:
    return await fetch_all(
        conn,
        _ENTRIES,
        {
            "user_id": user_id,
            "before_id": before_id,
            "limit": limit,
            "kinds": list(kinds),
            "subject_id": subject_id,
        },
    )
