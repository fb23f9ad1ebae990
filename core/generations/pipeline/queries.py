"""The SQL calls of the pipeline: nearly all are one function of the database each."""

import uuid
from typing import Any

import msgspec
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from core.changes import Change
from core.db import Connection, fetch_all, fetch_one
from core.generations.endings import Ending
from core.generations.pipeline.types import (
    CallEnd,
    CallIntent,
    CallResult,
    ProviderCall,
    RefusalAbout,
)
from core.generations.providers.types import Accepted
from core.generations.types import GenerationState, ResultImage


def _facts(value: msgspec.Struct) -> Jsonb:
    return Jsonb(msgspec.to_builtins(value))


async def _change(conn: Connection, query: str, params: Any) -> Change | None:
    row = await fetch_one(conn, query, params)
    value = next(iter(row.values())) if row else None
    return None if value is None else msgspec.convert(value, Change)


async def _changes(conn: Connection, query: str, params: Any) -> list[Change]:
    rows = await fetch_all(conn, query, params)
    return [msgspec.convert(next(iter(row.values())), Change) for row in rows]


# --- submit --------------------------------------------------------------------------------------


async def open_calls(
    conn: Connection, fingerprints: list[str], *, limit: int, lease_seconds: float
) -> list[CallIntent]:
    """The generations that are served next, each with an open call whose POST is not yet sent."""
    rows = await fetch_all(
        conn,
        "select app.open_calls(%s, %s, %s) as intent",
        (fingerprints, limit, lease_seconds),
    )
    return [msgspec.convert(row["intent"], CallIntent) for row in rows]


async def record_accepted(
    conn: Connection, call_id: uuid.UUID, accepted: Accepted, *, poll_seconds: float
) -> Change | None:
    """Late answers fill only empty fields."""
    return await _change(
        conn,
        "select app.record_accepted(%s, %s, %s, %s, %s, %s)",
        (
            call_id,
            accepted.request_id,
            accepted.status_url,
            accepted.response_url,
            accepted.cancel_url,
            poll_seconds,
        ),
    )


async def record_not_accepted(
    conn: Connection, call_id: uuid.UUID, end: CallEnd, *, delay_seconds: float
) -> Change | None:
    return await _change(
        conn,
        "select app.record_not_accepted(%s, %s, %s)",
        (call_id, _facts(end), delay_seconds),
    )


async def find_whose_refusal(conn: Connection, call_id: uuid.UUID) -> RefusalAbout:
    """Whom the 403 that this call was just answered with speaks of."""
    row = await fetch_one(conn, "select app.whose_refusal(%s) as about", (call_id,))
    assert row is not None
    return RefusalAbout(row["about"])


async def count_refusals(conn: Connection, call_id: uuid.UUID, http_status: int | None) -> int:
    """How often this step was refused with this status before."""
    row = await fetch_one(conn, _COUNT_REFUSALS, {"call_id": call_id, "status": http_status})
    assert row is not None
    return int(row["refusals"])


_COUNT_REFUSALS = """
select count(*) as refusals
from app.provider_calls as call
join app.provider_calls as before
  on before.generation_id = call.generation_id and before.step = call.step
where call.id = %(call_id)s
  and before.id <> call.id
  and before.state = 'refused'
  and before.http_status = %(status)s
"""


async def record_ambiguous(
    conn: Connection, call_id: uuid.UUID, error: str, *, grace_seconds: float
) -> Change | None:
    return await _change(
        conn, "select app.record_ambiguous(%s, %s, %s)", (call_id, error, grace_seconds)
    )


async def refresh_outlook(conn: Connection, *, every_seconds: float) -> bool:
    row = await fetch_one(conn, "select app.refresh_outlook(%s) as done", (every_seconds,))
    return bool(row and row["done"])


async def mend_lines(conn: Connection) -> int:
    row = await fetch_one(conn, "select app.mend_lines() as mended")
    return int(row["mended"]) if row else 0


# --- collect -------------------------------------------------------------------------------------


async def ensure_collect(conn: Connection, call_id: uuid.UUID) -> None:
    """Has a call that ended at the provider collected, by one task."""
    await conn.execute("select app.ensure_collect(%s)", (call_id,))


async def begin_collect(
    conn: Connection, call_id: uuid.UUID, *, take_over: bool = False
) -> CallResult:
    row = await fetch_one(conn, "select app.begin_collect(%s, %s) as call", (call_id, take_over))
    assert row is not None
    return msgspec.convert(row["call"], CallResult)


async def begin_loss(
    conn: Connection, call_id: uuid.UUID, *, is_collector: bool
) -> CallResult | None:
    """As begin_collect, for a call that the provider does not know. None: a collector has it."""
    call = await begin_collect(conn, call_id)
    if is_collector:
        return call
    # Under the generation's lock: a webhook that wants it collected waits, or came before.
    row = await fetch_one(
        conn,
        "select from app.outbox where job = 'provider_call.collect' and dedupe_key = %s",
        (str(call_id),),
    )
    return call if row is None else None


async def count_unknown(conn: Connection, call_id: uuid.UUID) -> int:
    """How often in a row the provider did not know the request, this time included."""
    row = await fetch_one(
        conn,
        "update app.provider_calls set unknown_polls = unknown_polls + 1 where id = %s"
        " returning unknown_polls",
        (call_id,),
    )
    return int(row["unknown_polls"]) if row else 0


async def forget_unknown(conn: Connection, call_id: uuid.UUID) -> None:
    """The provider knows the request after all."""
    await conn.execute("update app.provider_calls set unknown_polls = 0 where id = %s", (call_id,))


async def count_broken(conn: Connection, call_id: uuid.UUID) -> int:
    """How often the output's file was missing or broken, this time included."""
    row = await fetch_one(
        conn,
        "update app.provider_calls set broken_files = broken_files + 1 where id = %s"
        " returning broken_files",
        (call_id,),
    )
    return int(row["broken_files"]) if row else 0


async def resume_polling(
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
) -> CallIntent | None:
    row = await fetch_one(
        conn,
        "select app.advance_generation(%s, %s, %s, %s, %s) as intent",
        (call_id, lease_token, _facts(end), input_key, lease_seconds),
    )
    return msgspec.convert(row["intent"], CallIntent) if row and row["intent"] else None


# --- ends ----------------------------------------------------------------------------------------

_FINISH = "select app.finish_generation(%s, %s, %s, %s)"


async def deliver(
    conn: Connection,
    generation_id: uuid.UUID,
    lease_token: uuid.UUID,
    result: ResultImage,
    *,
    call_id: uuid.UUID,
    end: CallEnd,
) -> Change | None:
    """The image and the end of the money; `late` in the change: the generation had ended before."""
    facts = {"result": msgspec.to_builtins(result), **_call_facts(call_id, end)}
    return await _change(
        conn,
        _FINISH,
        (generation_id, lease_token, GenerationState.SUCCEEDED, Jsonb(facts)),
    )


async def end_without_image(
    conn: Connection,
    generation_id: uuid.UUID,
    lease_token: uuid.UUID | None,
    ending: Ending,
    *,
    call_id: uuid.UUID,
    end: CallEnd,
) -> Change | None:
    """The end and the refund. None when the generation does not wait for this call: then only the
    call ended."""
    is_cancelled = ending is Ending.CANCELLED
    state = GenerationState.CANCELLED if is_cancelled else GenerationState.FAILED
    facts = {
        "ending": ending,
        **_call_facts(call_id, end),
    }
    return await _change(conn, _FINISH, (generation_id, lease_token, state, Jsonb(facts)))


def _call_facts(call_id: uuid.UUID, end: CallEnd) -> dict[str, Any]:
    return {"call_id": str(call_id), "call": msgspec.to_builtins(end)}


async def sweep_calls(
    conn: Connection, *, grace_seconds: float, attempts_max: int, limit: int
) -> list[Change]:
    return await _changes(
        conn, "select app.sweep_calls(%s, %s, %s)", (grace_seconds, attempts_max, limit)
    )


async def sweep_deadlines(conn: Connection, *, limit: int) -> list[Change]:
    return await _changes(conn, "select app.sweep_deadlines(%s)", (limit,))


# --- calls ---------------------------------------------------------------------------------------

_CALL_COLUMNS = (
    "id, generation_id, provider, account_id, key_fingerprint, endpoint, state, polls,"
    " unknown_polls, request_id, status_url, cancel_url,"
    " (select name from app.provider_accounts where id = account_id) as account"
)

# Nobody waits for an abandoned call: a quarter of an hour is soon enough for a late image, and
# what the provider has not finished six hours later it never will (a thousand of them were 250
# requests a minute; now they are one each, and end).
_LATE_PAUSE_SECONDS_MAX = 900
_LATE_SECONDS_MAX = 6 * 3600


def late_poll_seconds(abandoned_seconds: float, *, at_least: float) -> float | None:
    """Until the next look at an abandoned call, a quarter of its age; None: there is none."""
    if abandoned_seconds >= _LATE_SECONDS_MAX:
        return None
    return min(_LATE_PAUSE_SECONDS_MAX, max(at_least, abandoned_seconds / 4))


_PUT_OFF_POLLS = """
update app.provider_calls
set polls = polls + 1,
  next_poll_at = case
    when state = 'abandoned' then case
      when ended_at > app.now() - make_interval(secs => %(late_max)s) then
        app.now() + least(make_interval(secs => %(late_pause_max)s),
          greatest(make_interval(secs => %(most)s), (app.now() - ended_at) / 4)) end
    when created_at > app.now() - interval '1 day' then
      app.now() + make_interval(secs => least(%(most)s, power(2, least(polls, 10)))) end
where id in (
  select id
  from app.provider_calls as call
  where next_poll_at <= app.now()
    and account_id in (
      select account.id
      from app.provider_accounts as account
      join app.provider_keys as key on key.account_id = account.id
      where key.fingerprint = any (%(fingerprints)s)
        and coalesce(account.looks_paused_until, app.now()) <= app.now())
    and not exists (
      select
      from app.outbox
      where job = 'provider_call.collect'
        and dedupe_key = call.id::text)"""
_IN_THEIR_TURN = f"""
  order by next_poll_at
  limit %(limit)s
  for update skip locked
)
returning {_CALL_COLUMNS}
"""
# The state is written out, so that each is answered by its own partial index.
_CLAIM_LIVE_POLLS = f"{_PUT_OFF_POLLS}\n    and state <> 'abandoned'{_IN_THEIR_TURN}"
_CLAIM_ABANDONED_POLLS = f"{_PUT_OFF_POLLS}\n    and state = 'abandoned'{_IN_THEIR_TURN}"


def _call(row: DictRow) -> ProviderCall:
    return msgspec.convert(row, ProviderCall)


async def claim_polls(
    conn: Connection, fingerprints: list[str], *, seconds_max: float, abandoned: bool, limit: int
) -> list[ProviderCall]:
    """Calls that are due, each already put off to its next poll. Given up after a day.
    `abandoned`: those that nobody waits for any more, and only those: given up after six hours.

    Not those whose result is wanted already: under load that was half of a worker's work.
    """
    rows = await fetch_all(
        conn,
        _CLAIM_ABANDONED_POLLS if abandoned else _CLAIM_LIVE_POLLS,
        {
            "fingerprints": fingerprints,
            "most": seconds_max,
            "limit": limit,
            "late_max": _LATE_SECONDS_MAX,
            "late_pause_max": _LATE_PAUSE_SECONDS_MAX,
        },
    )
    return [_call(row) for row in rows]


_END_OLD_POLLS = """
update app.provider_calls
set next_poll_at = null
where id in (
  select id
  from app.provider_calls
  where next_poll_at <= app.now()
    and created_at <= app.now() - interval '1 day 1 hour'
  limit %s
  for update skip locked
)
"""


async def end_old_polls(conn: Connection, *, limit: int) -> int:
    """Of calls that are an hour over the day for which they are polled; how many."""
    return (await conn.execute(_END_OLD_POLLS, (limit,))).rowcount


async def find_call(conn: Connection, call_id: uuid.UUID) -> ProviderCall | None:
    row = await fetch_one(
        conn,
        f"select {_CALL_COLUMNS} from app.provider_calls where id = %s",  # noqa: S608  constants
        (call_id,),
    )
    return None if row is None else _call(row)


async def poll_now(conn: Connection, call_id: uuid.UUID) -> None:
    await conn.execute(
        "update app.provider_calls set next_poll_at = app.now()"
        " where id = %s and state in ('accepted', 'abandoned')"
        " and (request_id is not null or status_url is not null)",
        (call_id,),
    )
