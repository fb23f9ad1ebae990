"""Both ledgers after a run, our database's and the provider's own. Reads only."""

import asyncio
import time
import uuid
from typing import Any

import httpx
import msgspec
import psycopg
from psycopg.rows import DictRow, dict_row

from core.proofs import Drift
from sandbox.stack.product import Product
from scripts.reconcile import report_on

Row = DictRow

_GENERATIONS = """
select generation.id, generation.user_id, generation.upload_id, generation.operation,
  generation.lane, generation.params, generation.state, generation.created_at,
  coalesce(generation.deadline_at, generation.wait_until, generation.finished_at) as deadline_at,
  generation.finished_at, generation.retry_of, generation.result,
  generation.ending, generation.cost_credits, generation.resubmissions,
  generation.cancel_requested_at, generation.step, reservation.state as money,
  (select count(*) from app.ledger_transfers as transfer
    where transfer.subject_id = generation.id and transfer.kind = 'confirm') as confirms,
  (select coalesce(sum(amount), 0) from app.ledger_transfers as transfer
    where transfer.subject_id = generation.id and transfer.kind = 'confirm') as confirmed,
  (select coalesce(sum(amount), 0) from app.ledger_transfers as transfer
    where transfer.subject_id = generation.id and transfer.kind = 'refund') as refunded
from app.generations as generation
left join app.reservations as reservation
  on reservation.subject_id = generation.id and reservation.purpose = 'run'
order by generation.created_at
"""

_CALLS = """
select id, generation_id, step, attempt, endpoint, state, is_resubmission, request_id, status_url,
  error_type, error_detail, http_status, billable_units, created_at, accepted_at, ended_at,
  next_poll_at
from app.provider_calls
order by created_at
"""

_DEAD_LETTERS = "select id, job, args, failures, error from app.dead_letters order by died_at"
_LATE = "select generation_id, call_id, bought_as from app.late_images"

# What the product still has to do; after a run nothing of it may be left.
_PENDING = """
select
  (select count(*) from app.outbox) as tasks,
  (select count(*) from app.provider_calls
    where state in ('submitting', 'accepted', 'ambiguous')) as slots,
  (select count(*) from app.provider_calls
    where state = 'abandoned' and next_poll_at is not null) as polls,
  (select count(*) from app.generations where finished_at is null) as generations
"""


class BothLedgers(msgspec.Struct, frozen=True):
    generations: list[Row]
    calls: list[Row]
    dead_letters: list[Row]
    late_images: list[Row]
    pending: Row
    leftovers: list[Row]
    paid_calls: list[dict[str, Any]]
    paid_totals: dict[str, Any]
    drift: list[Drift]
    transfers: int


async def read_both_ledgers(product: Product) -> BothLedgers:
    paid = await asyncio.to_thread(_read_ledger, product)
    return BothLedgers(
        **await asyncio.to_thread(_read_database, product),
        paid_calls=paid["calls"],
        paid_totals=paid["totals"],
        drift=await find_drift(product),
    )


async def find_drift(product: Product) -> list[Drift]:
    return (await report_on(product.stack.migration_database_url)).drift


async def wait_until_nothing_pending(product: Product, *, seconds: float) -> None:
    """Waits at most `seconds`; what is pending after that is a violation of the run."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any((await asyncio.to_thread(pending, product)).values()):
            return
        await asyncio.sleep(0.5)


def pending(product: Product) -> Row:
    with _connect(product) as conn:
        row = conn.execute(_PENDING).fetchone()
    assert row is not None
    return row


def read_late_images(product: Product) -> list[Row]:
    with _connect(product) as conn:
        return conn.execute(_LATE).fetchall()


def set_deadlines(product: Product, deadline_seconds: int, uncertain_seconds: int) -> None:
    """Shorter times than the catalogue's, for every operation of this database; waiting for a
    turn has as long as the work."""
    with _connect(product) as conn:
        conn.execute(
            "update app.operations"
            " set wait_seconds = %(deadline)s, batch_wait_seconds = %(deadline)s,"
            " deadline_seconds = %(deadline)s, uncertain_seconds = %(uncertain)s",
            {"deadline": deadline_seconds, "uncertain": uncertain_seconds},
        )


def find_normal_key(product: Product, upload_id: uuid.UUID) -> str:
    """The storage key of the normalised photo, which the models get."""
    with _connect(product) as conn:
        row = conn.execute(
            "select normal_key from app.uploads where id = %s", (upload_id,)
        ).fetchone()
    assert row is not None
    return str(row["normal_key"])


def _connect(product: Product) -> psycopg.Connection[Row]:
    return psycopg.connect(product.stack.postgres.url(), row_factory=dict_row)


def _read_database(product: Product) -> dict[str, Any]:
    with _connect(product) as conn:
        counted = conn.execute("select count(*) as transfers from app.ledger_transfers").fetchone()
        still_pending = conn.execute(_PENDING).fetchone()
        assert counted is not None
        return {
            "generations": conn.execute(_GENERATIONS).fetchall(),
            "calls": conn.execute(_CALLS).fetchall(),
            "dead_letters": conn.execute(_DEAD_LETTERS).fetchall(),
            "late_images": conn.execute(_LATE).fetchall(),
            "pending": still_pending,
            "leftovers": conn.execute("select * from app.outbox limit 20").fetchall(),
            "transfers": counted["transfers"],
        }


def _read_ledger(product: Product) -> dict[str, Any]:
    reply = httpx.get(f"{product.fal_url}/__control/ledger", timeout=30)
    reply.raise_for_status()
    ledger: dict[str, Any] = reply.json()
    return ledger
