"""Accounts at providers: their keys, and their health.

A rate limit cools an account down, a refusal of its key or balance opens its breaker; both live on
the account's row, so every process sees them. The breaker as a whole is in schema/providers.sql:
open_breaker (called here), begin_probe (by open_calls), end_probe (by record_accepted), which
closes it.
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


async def record_effect(
    conn: Connection,
    account_id: uuid.UUID,
    effect: AccountEffect,
    *,
    settings: Settings,
    reason: str,
    retry_after_seconds: float | None = None,
) -> None:
    """Records the effect of an answer on its account; opening a breaker is an alarm."""
    if effect == "cooldown":
        seconds = retry_after_seconds or settings.provider_cooldown_seconds
        jitter = seconds * random.uniform(0, 0.2)  # noqa: S311  spreads processes, no secret
        await conn.execute("select app.cool_down(%s, %s)", (account_id, seconds + jitter))
    elif effect == "breaker":
        row = await fetch_one(
            conn,
            "select name, failures from app.open_breaker(%s, %s, %s)",
            (account_id, settings.provider_breaker_seconds, reason),
        )
        assert row is not None
        log.error(
            "provider.breaker_opened",
            account=row["name"],
            failures=row["failures"],
            reason=reason,
        )


async def record_unreachable(
    db: Database, account_id: uuid.UUID, outcome: Unreachable, *, settings: Settings
) -> None:
    """A poll that was refused says as much about the account as a refused submit."""
    if outcome.account_effect == "none":
        return
    await db.run(
        lambda conn: record_effect(
            conn,
            account_id,
            outcome.account_effect,
            settings=settings,
            reason=outcome.detail,
            retry_after_seconds=outcome.retry_after_seconds,
        )
    )
