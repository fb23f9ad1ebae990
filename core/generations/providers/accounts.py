"""Accounts at providers: their keys, and their health.

A rate limit cools an account down, a refusal of its key or balance opens its breaker; both live on
the account's row, so every process sees them. An open breaker lets one probe through after its
pause (app.take_tickets), which closes it when the provider takes it (app.record_accepted).
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
    """Makes the accounts of this process's keys known. Replay: the same rows."""
    keys = [key for provider in providers.values() for key in provider.keys]
    await conn.execute(
        "select app.sync_provider_keys(%s, %s)", (Jsonb(msgspec.to_builtins(keys)), slots)
    )


# The later of two cooldowns wins, so a slow answer cannot shorten a newer one.
_COOL_DOWN = """
update app.provider_accounts
set cooldown_until = greatest(cooldown_until, app.now() + make_interval(secs => %(seconds)s))
where id = %(id)s
"""

# Each failed probe doubles the pause, at most 64 times.
_OPEN_BREAKER = """
update app.provider_accounts
set breaker_state = 'open',
  breaker_until = app.now()
    + make_interval(secs => %(seconds)s * power(2, least(breaker_failures, 6))),
  breaker_reason = left(%(reason)s, 500),
  breaker_failures = breaker_failures + 1
where id = %(id)s
returning name, breaker_failures
"""


async def record_effect(
    conn: Connection,
    account_id: uuid.UUID,
    effect: AccountEffect,
    *,
    settings: Settings,
    reason: str,
    retry_after_seconds: float | None = None,
) -> None:
    """Records what an answer says about its account; opening a breaker is an alert."""
    if effect == "cooldown":
        seconds = retry_after_seconds or settings.provider_cooldown_seconds
        jitter = seconds * random.uniform(0, 0.2)  # noqa: S311  spreads processes, no secret
        await conn.execute(_COOL_DOWN, {"id": account_id, "seconds": seconds + jitter})
    elif effect == "breaker":
        row = await fetch_one(
            conn,
            _OPEN_BREAKER,
            {"id": account_id, "seconds": settings.provider_breaker_seconds, "reason": reason},
        )
        assert row is not None
        log.error(
            "provider.breaker_opened",
            account=row["name"],
            failures=row["breaker_failures"],
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
            reason=outcome.reason,
            retry_after_seconds=outcome.retry_after_seconds,
        )
    )
