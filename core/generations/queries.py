"""The SQL of generations. Row level security says whose rows may be seen."""

import uuid

import msgspec

from core.db import Connection, fetch_all, fetch_one
from core.generations.explanation import RunRows

_GENERATION = """
select generation.id, generation.operation, operation.title, generation.lane, generation.state,
  generation.cost_credits, generation.retry_of, generation.cancel_requested_at,
  generation.ending, generation.created_at, generation.finished_at,
  jsonb_array_length(operation.steps) as steps
from app.generations as generation
join app.operations as operation
  on operation.slug = generation.operation and operation.version = generation.operation_version
where generation.id = %s
"""

# The entry that reserved the credits carries the expiry that the lot had then.
_RUN_TRANSFERS = """
select entry.id as entry_id, entry.kind, entry.debit, entry.credit, entry.amount, entry.lot_id,
  lot.source, entry.lot_expires_at, entry.created_at,
  case when entry.kind = 'refund' and taken.lot_expires_at < entry.lot_expires_at
    then taken.lot_expires_at end as extended_from,
  entry.kind = 'confirm' and entry.amount < reservation.amount as is_share
from app.ledger_transfers as entry
join app.reservations as reservation on reservation.id = entry.reservation_id
left join app.credit_lots as lot on lot.id = entry.lot_id
left join app.ledger_transfers as taken
  on taken.reservation_id = entry.reservation_id
  and taken.lot_id = entry.lot_id
  and taken.kind = 'reserve'
where entry.subject_id = %s
order by entry.id
"""

_RUN_CALLS = """
select id as call_id, step, attempt, endpoint, state, is_resubmission, accepted_at, ended_at,
  http_status, error_type, billable_units, created_at
from app.provider_calls
where generation_id = %s
order by attempt
"""

_RUN_STATES = """
select payload ->> 'state' as state, version, created_at as at
from app.events
where subject_id = %s
  and type like 'generation.%%'
order by version
"""

_RUN_LATE_IMAGE = """
select created_at, expires_at, bought_as
from app.late_images
where generation_id = %s
"""


async def find_run(conn: Connection, generation_id: uuid.UUID) -> RunRows | None:
    generation = await fetch_one(conn, _GENERATION, (generation_id,))
    if generation is None:
        return None
    return msgspec.convert(
        {
            "generation": generation,
            "transfers": await fetch_all(conn, _RUN_TRANSFERS, (generation_id,)),
            "calls": await fetch_all(conn, _RUN_CALLS, (generation_id,)),
            "states": await fetch_all(conn, _RUN_STATES, (generation_id,)),
            "late_image": await fetch_one(conn, _RUN_LATE_IMAGE, (generation_id,)),
        },
        RunRows,
    )
