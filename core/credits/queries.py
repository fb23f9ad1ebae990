"""The SQL of credits. Each query names the user; row level security says whether it may be seen."""

import uuid
from collections.abc import Sequence

from psycopg.rows import DictRow

from core.credits.types import RunRows
from core.db import Connection, fetch_all, fetch_one

LOTS_MAX = 500

# A lot that is past its time is not spendable, though the hourly expiry may not have booked it yet.
_BALANCE = """
select account.available - coalesce((
    select sum(lot.remaining)
    from app.credit_lots as lot
    where lot.user_id = account.user_id
      and lot.remaining > 0
      and lot.expires_at <= now()
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
  and (expires_at is null or expires_at > now())
order by expires_at nulls last, is_paid, created_at, id
limit %(limit)s
"""

# One statement, so that the balance belongs to the newest line.
_ENTRIES = """
select entry.id, entry.kind, entry.debit, entry.credit, entry.amount, entry.lot_id, lot.source,
  entry.lot_expires_at, entry.reservation_id, generation.id as generation_id,
  generation.operation, entry.reference, entry.actor, entry.note, entry.idempotency_key,
  entry.created_at,
  (select available from app.credit_accounts where user_id = %(user_id)s) as available,
  (select reserved from app.credit_accounts where user_id = %(user_id)s) as reserved,
  (select debt from app.credit_accounts where user_id = %(user_id)s) as debt
from app.ledger_transfers as entry
left join app.credit_lots as lot on lot.id = entry.lot_id
left join app.generations as generation on generation.id = entry.subject_id
where entry.user_id = %(user_id)s
  and (%(before_id)s::bigint is null or entry.id < %(before_id)s)
  and (%(subject_id)s::uuid is null or entry.subject_id = %(subject_id)s)
  and (%(kinds)s::text[] = '{}' or entry.kind = any (%(kinds)s))
order by entry.id desc
limit %(limit)s
"""

_GENERATION = """
select generation.id, generation.operation, operation.title, generation.lane, generation.state,
  generation.cost_credits, generation.retry_of, generation.cancel_requested_at,
  generation.problem ->> 'detail' as problem, generation.created_at, generation.finished_at,
  jsonb_array_length(operation.steps) as steps
from app.generations as generation
join app.operations as operation
  on operation.slug = generation.operation and operation.version = generation.operation_version
where generation.id = %s
"""

# The line that set the credits aside carries the expiry that the lot had then.
_RUN_TRANSFERS = """
select entry.id, entry.kind, entry.debit, entry.credit, entry.amount, entry.lot_id, lot.source,
  entry.lot_expires_at, entry.created_at,
  case when entry.kind = 'refund' and taken.lot_expires_at < entry.lot_expires_at
    then taken.lot_expires_at end as extended_from
from app.ledger_transfers as entry
left join app.credit_lots as lot on lot.id = entry.lot_id
left join app.ledger_transfers as taken
  on taken.reservation_id = entry.reservation_id
  and taken.lot_id = entry.lot_id
  and taken.kind = 'reserve'
where entry.subject_id = %s
order by entry.id
"""

_RUN_CALLS = """
select id, step, attempt, endpoint, state, is_resubmission, accepted_at, ended_at, http_status,
  error_type, billable_units, created_at
from app.provider_calls
where generation_id = %s
order by attempt
"""

_RUN_EVENTS = """
select version, state, at
from app.generation_events
where generation_id = %s
order by version
"""

_RUN_LATE_IMAGE = """
select created_at, expires_at, bought_as
from app.late_images
where generation_id = %s
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


async def find_run(conn: Connection, generation_id: uuid.UUID) -> RunRows | None:
    generation = await fetch_one(conn, _GENERATION, (generation_id,))
    if generation is None:
        return None
    return RunRows(
        generation=generation,
        transfers=await fetch_all(conn, _RUN_TRANSFERS, (generation_id,)),
        calls=await fetch_all(conn, _RUN_CALLS, (generation_id,)),
        events=await fetch_all(conn, _RUN_EVENTS, (generation_id,)),
        late_image=await fetch_one(conn, _RUN_LATE_IMAGE, (generation_id,)),
    )
