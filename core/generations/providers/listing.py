"""Provider accounts and their keys, as admins see them, and the breaker that one closes."""

import uuid
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from core.db import Connection, fetch_all
from core.errors import NotFoundError

_ACCOUNTS = """
select account.id, account.provider, account.name, account.slots, account.breaker_state,
  account.breaker_reason, account.breaker_until, account.breaker_failures, account.cooldown_until,
  account.looks_paused_until,
  (
    select count(*)
    from app.provider_calls as call
    where call.account_id = account.id
      and call.state in ('submitting', 'accepted', 'ambiguous')
  ) as slots_held,
  (
    select coalesce(jsonb_agg(jsonb_build_object(
      'name', key.name, 'fingerprint', key.fingerprint, 'last_used_at', key.last_used_at,
      'held_at', key.held_at, 'refused_at', key.refused_at, 'probe_at', key.probe_at)
      order by key.name), '[]')
    from app.provider_keys as key
    where key.account_id = account.id
  ) as keys
from app.provider_accounts as account
where %(id)s::uuid is null or account.id = %(id)s
order by account.provider, account.name
"""


class ProviderKey(msgspec.Struct, frozen=True):
    """A key is known by the name of its variable and its fingerprint, never by its secret."""

    name: str
    fingerprint: str
    last_used_at: datetime | None
    held_at: Annotated[
        datetime, Meta(description="When a worker had it last; those that run say so every minute.")
    ]
    refused_at: Annotated[
        datetime | None, Meta(description="Since when the provider does not know it (401).")
    ]
    probe_at: Annotated[datetime | None, Meta(description="When a refused one is tried again.")]


class ProviderAccount(msgspec.Struct, frozen=True):
    id: uuid.UUID
    provider: str
    name: str
    slots: int
    slots_held: int
    breaker_state: str
    breaker_reason: str | None
    breaker_until: Annotated[
        datetime | None, Meta(description="When one order is let through, which decides.")
    ]
    breaker_failures: Annotated[
        int, Meta(description="How often in a row the account was refused; 2 and more: it lasts.")
    ]
    cooldown_until: Annotated[datetime | None, Meta(description="Submits pause until then.")]
    looks_paused_until: Annotated[
        datetime | None, Meta(description="Polls and results pause until then.")
    ]
    keys: list[ProviderKey]


async def list_provider_accounts(conn: Connection) -> list[ProviderAccount]:
    return msgspec.convert(await fetch_all(conn, _ACCOUNTS, {"id": None}), list[ProviderAccount])


async def close_breaker(conn: Connection, account_id: uuid.UUID, *, reason: str) -> ProviderAccount:
    """Orders go to the account at once, and its refused keys are tried again; audited.

    Raises: NotFoundError.  Replay: a closed one stays closed.
    """
    await conn.execute("select app.close_breaker(%s, %s)", (account_id, reason))
    rows = await fetch_all(conn, _ACCOUNTS, {"id": account_id})
    if not rows:
        raise NotFoundError(kind="provider_account")
    return msgspec.convert(rows[0], ProviderAccount)
