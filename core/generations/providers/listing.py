"""Provider accounts and their keys, as admins see them."""

from datetime import datetime

import msgspec

from core.db import Connection, fetch_all

_ACCOUNTS = """
select account.provider, account.name, account.slots, account.breaker_state, account.breaker_reason,
  account.breaker_until, account.cooldown_until,
  (
    select count(*)
    from app.provider_calls as call
    where call.account_id = account.id
      and call.state in ('submitting', 'accepted', 'ambiguous')
  ) as slots_held,
  (
    select coalesce(jsonb_agg(jsonb_build_object(
      'name', key.name, 'fingerprint', key.fingerprint, 'last_used_at', key.last_used_at)
      order by key.name), '[]')
    from app.provider_keys as key
    where key.account_id = account.id
  ) as keys
from app.provider_accounts as account
order by account.provider, account.name
"""


class ProviderKey(msgspec.Struct, frozen=True):
    """A key is known by the name of its variable and its fingerprint, never by its secret."""

    name: str
    fingerprint: str
    last_used_at: datetime | None


class ProviderAccount(msgspec.Struct, frozen=True):
    provider: str
    name: str
    slots: int
    slots_held: int
    breaker_state: str
    breaker_reason: str | None
    breaker_until: datetime | None
    cooldown_until: datetime | None
    keys: list[ProviderKey]


async def list_provider_accounts(conn: Connection) -> list[ProviderAccount]:
    return msgspec.convert(await fetch_all(conn, _ACCOUNTS), list[ProviderAccount])
