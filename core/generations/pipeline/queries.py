"""The SQL calls of the pipeline: one function of migrations/*dispatch.sql each."""

import uuid
from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from core.db import Connection, fetch_all, fetch_one
from core.generations.types import CallEnd, Collection, Problem, ResultImage, Ticket

Change = dict[str, Any]


def _facts(value: msgspec.Struct) -> Jsonb:
    return Jsonb(msgspec.to_builtins(value))


async def _change(conn: Connection, query: str, params: Any) -> Change | None:
    row = await fetch_one(conn, query, params)
    return next(iter(row.values())) if row else None


async def take_tickets(
    conn: Connection, fingerprints: list[str], *, limit: int, lease_seconds: float
) -> list[Ticket]:
    rows = await fetch_all(
        conn,
        "select app.take_tickets(%s, %s, %s) as ticket",
        (fingerprints, limit, lease_seconds),
    )
    return [msgspec.convert(row["ticket"], Ticket) for row in rows]


async def record_accepted(
    conn: Connection,
    call_id: uuid.UUID,
    *,
    request_id: str,
    urls: tuple[str, str, str],
    poll_seconds: float,
) -> Change | None:
    """`urls` are status, response and cancel. Late answers fill only empty fields."""
    return await _change(
        conn,
        "select app.record_accepted(%s, %s, %s, %s, %s, %s)",
        (call_id, request_id, *urls, poll_seconds),
    )


async def record_not_accepted(
    conn: Connection, call_id: uuid.UUID, end: CallEnd, *, delay_seconds: float
) -> Change | None:
    return await _change(
        conn,
        "select app.record_not_accepted(%s, %s, %s)",
        (call_id, _facts(end), delay_seconds),
    )


async def record_ambiguous(
    conn: Connection, call_id: uuid.UUID, error: str, *, grace_seconds: float
) -> Change | None:
    return await _change(
        conn, "select app.record_ambiguous(%s, %s, %s)", (call_id, error, grace_seconds)
    )


async def ensure_collect(conn: Connection, call_id: uuid.UUID) -> uuid.UUID | None:
    """The id of the one collect task of a call that ended at the provider."""
    row = await fetch_one(conn, "select app.ensure_collect(%s) as task_id", (call_id,))
    return row["task_id"] if row else None


async def begin_collect(
    conn: Connection, call_id: uuid.UUID, *, take_over: bool = False
) -> Collection:
    row = await fetch_one(conn, "select app.begin_collect(%s, %s) as found", (call_id, take_over))
    assert row is not None
    return msgspec.convert(row["found"], Collection)


async def resume_running(
    conn: Connection, call_id: uuid.UUID, lease_token: uuid.UUID, *, poll_seconds: float
) -> Change | None:
    return await _change(
        conn, "select app.resume_running(%s, %s, %s)", (call_id, lease_token, poll_seconds)
    )


async def requeue(
    conn: Connection,
    call_id: uuid.UUID,
    lease_token: uuid.UUID | None,
    end: CallEnd,
    *,
    delay_seconds: float,
    attempts_max: int,
) -> Change | None:
    """None when the generation has no attempt or time left: then nothing was written."""
    return await _change(
        conn,
        "select app.requeue_generation(%s, %s, %s, %s, %s)",
        (call_id, lease_token, _facts(end), delay_seconds, attempts_max),
    )


async def close_call(
    conn: Connection, call_id: uuid.UUID, lease_token: uuid.UUID | None, end: CallEnd
) -> None:
    await conn.execute("select app.close_call(%s, %s, %s)", (call_id, lease_token, _facts(end)))


async def advance(
    conn: Connection,
    call_id: uuid.UUID,
    lease_token: uuid.UUID,
    end: CallEnd,
    *,
    input_key: str,
    lease_seconds: float,
) -> Ticket | None:
    row = await fetch_one(
        conn,
        "select app.advance_generation(%s, %s, %s, %s, %s) as ticket",
        (call_id, lease_token, _facts(end), input_key, lease_seconds),
    )
    return msgspec.convert(row["ticket"], Ticket) if row and row["ticket"] else None


async def finish(
    conn: Connection,
    generation_id: uuid.UUID,
    lease_token: uuid.UUID | None,
    outcome: str,
    *,
    call_id: uuid.UUID | None = None,
    end: CallEnd | None = None,
    result: ResultImage | None = None,
    problem: Problem | None = None,
) -> Change | None:
    """The end of the generation and of its money; `late` in the change: it had ended before.

    None when a call failed that the generation does not wait for: then only the call ended.
    """
    facts = {
        "call_id": None if call_id is None else str(call_id),
        "call": msgspec.to_builtins(end),
        "result": msgspec.to_builtins(result),
        "problem": msgspec.to_builtins(problem),
    }
    return await _change(
        conn,
        "select app.finish_generation(%s, %s, %s, %s)",
        (generation_id, lease_token, outcome, Jsonb(facts)),
    )


async def sweep_calls(
    conn: Connection, *, grace_seconds: float, attempts_max: int, limit: int
) -> list[Change]:
    rows = await fetch_all(
        conn,
        "select app.sweep_calls(%s, %s, %s) as change",
        (grace_seconds, attempts_max, limit),
    )
    return [row["change"] for row in rows]


async def sweep_deadlines(conn: Connection, *, limit: int) -> list[Change]:
    rows = await fetch_all(conn, "select app.sweep_deadlines(%s) as change", (limit,))
    return [row["change"] for row in rows]


_CLAIM_POLLS = """
update app.provider_calls
set polls = polls + 1,
  next_poll_at = case
    when created_at > app.now() - interval '1 day' then
      app.now() + make_interval(secs => least(%(most)s, power(2, least(polls, 10)))) end
where id in (
  select id
  from app.provider_calls as call
  where next_poll_at <= app.now()
    and key_fingerprint = any (%(fingerprints)s)
    and not exists (
      select
      from app.outbox
      where job = 'provider_call.collect'
        and dedupe_key = call.id::text)
  order by next_poll_at
  limit %(limit)s
  for update skip locked
)
returning id, generation_id, account_id, key_fingerprint, endpoint, request_id, status_url,
  state, polls
"""


async def claim_polls(
    conn: Connection, fingerprints: list[str], *, seconds_max: float, limit: int
) -> list[dict[str, Any]]:
    """Calls whose look is due, each already put off to its next one. Given up after a day.

    Not those whose result is wanted already: under load that was half of a worker's work.
    """
    return await fetch_all(
        conn,
        _CLAIM_POLLS,
        {"fingerprints": fingerprints, "most": seconds_max, "limit": limit},
    )


async def find_call(conn: Connection, call_id: uuid.UUID) -> dict[str, Any] | None:
    return await fetch_one(
        conn,
        "select id, generation_id, account_id, key_fingerprint, endpoint, state, request_id,"
        " cancel_url from app.provider_calls where id = %s",
        (call_id,),
    )


async def lock_call(conn: Connection, call_id: uuid.UUID) -> dict[str, Any] | None:
    """What is known of where the call runs; nobody else learns more until this transaction ends."""
    return await fetch_one(
        conn,
        "select state, request_id from app.provider_calls where id = %s for no key update",
        (call_id,),
    )


async def poll_now(conn: Connection, call_id: uuid.UUID) -> None:
    await conn.execute(
        "update app.provider_calls set next_poll_at = app.now()"
        " where id = %s and state in ('accepted', 'abandoned')"
        " and (request_id is not null or status_url is not null)",
        (call_id,),
    )
