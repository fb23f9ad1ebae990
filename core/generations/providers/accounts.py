"""Accounts at providers: their keys, and their health.

A rate limit cools an account down, a lock or an empty balance opens its breaker, a refused key is
shut by itself; they live on rows, so every process sees them. Only answers to submits count. The
breaker as a whole is in schema/breakers.sql: open_breaker and drop_probe (called here),
begin_probe (by open_calls), end_probe (by record_accepted), which closes it.
"""

import random
import uuid
from collections.abc import Mapping

import msgspec
import structlog
from psycopg.types.json import Jsonb

from core.db import Connection, Database, fetch_one
from core.generations.providers.base import ImageProvider
from core.generations.providers.types import AccountEffect, Unreachable
from core.settings import Settings

log = structlog.get_logger()


class SentCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call whose submit has ended, and how long its answer asks to wait."""

    call_id: uuid.UUID
    account_id: uuid.UUID
    retry_after_seconds: float | None = None


def fingerprints_of(providers: Mapping[str, ImageProvider]) -> list[str]:
    """Of every key that this process holds."""
    return [key.fingerprint for provider in providers.values() for key in provider.keys]


async def register_keys(
    conn: Connection, providers: Mapping[str, ImageProvider], *, slots: int
) -> None:
    """Registers the accounts of this process's keys. Replay: the same rows."""
    keys = [key for provider in providers.values() for key in provider.keys]
    await conn.execute(
        "select app.sync_provider_keys(%s, %s)", (Jsonb(msgspec.to_builtins(keys)), slots)
    )


async def hold_keys(conn: Connection, providers: Mapping[str, ImageProvider]) -> None:
    """This process still has them: figures and readiness speak of accounts in use."""
    await conn.execute("select app.hold_keys(%s)", (fingerprints_of(providers),))


async def record_effect(
    conn: Connection, sent: SentCall, effect: AccountEffect, *, settings: Settings, reason: str
) -> None:
    """Records what the answer to a submit, if there was one, says of its account and key.

    Locks: the account, then the key, as whoever opens calls.
    """
    if effect == "locked":
        await _open_breaker(conn, sent, settings=settings, reason=reason)
    # Where it was a probe and told nothing of the account, another one follows soon.
    await conn.execute(
        "select app.drop_probe(%s, %s)", (sent.call_id, settings.provider_cooldown_seconds)
    )
    if effect == "key_refused":
        row = await fetch_one(conn, "select app.refuse_key(%s) as name", (sent.call_id,))
        log.error("provider.key_refused", key=row and row["name"], reason=reason)
    elif effect == "cooldown":
        seconds = sent.retry_after_seconds or settings.provider_cooldown_seconds
        await conn.execute("select app.cool_down(%s, %s)", (sent.account_id, _with_jitter(seconds)))


async def record_taken(conn: Connection, call_id: uuid.UUID) -> None:
    """The provider refused this submit for what it asks for: account and key are well."""
    await conn.execute("select app.end_probe(%s)", (call_id,))


async def _open_breaker(
    conn: Connection, sent: SentCall, *, settings: Settings, reason: str
) -> None:
    row = await fetch_one(
        conn,
        "select name, failures from app.open_breaker(%s, %s, %s, %s)",
        (sent.account_id, sent.call_id, settings.provider_breaker_seconds, reason),
    )
    if row is not None and row["name"] is not None:
        log.error(
            "provider.breaker_opened",
            account=row["name"],
            failures=row["failures"],
            reason=reason,
        )


async def pause_looks(
    db: Database, account_id: uuid.UUID, outcome: Unreachable, *, settings: Settings
) -> None:
    """Polls and results that are limited pause by themselves: submits go on."""
    seconds = outcome.retry_after_seconds or settings.provider_cooldown_seconds

    async def work(conn: Connection) -> None:
        await conn.execute("select app.pause_looks(%s, %s)", (account_id, _with_jitter(seconds)))

    await db.run(work)


def _with_jitter(seconds: float) -> float:
    """Keeps processes apart."""
    return seconds * random.uniform(1, 1.2)  # noqa: S311  no secret
