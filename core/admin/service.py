"""People with their balances, and the audit log, for admins."""

import uuid
from datetime import datetime
from typing import Any

import msgspec

from core.db import Connection, fetch_all

# By id, which is indexed and stable; an exact id or the beginning of one narrows it.
_USERS = """
select person.id, person.created_at, account.available, account.reserved, account.debt
from app.users as person
join app.credit_accounts as account on account.user_id = person.id
where (%(after)s::uuid is null or person.id > %(after)s)
  and person.id between %(first)s and %(last)s
order by person.id
limit %(limit)s
"""

_AUDIT = """
select line.id, line.actor, line.action, line.target, line.created_at,
  coalesce(told.detail, '{}') as detail
from app.audit_log as line
left join app.audit_details as told on told.audit_id = line.id
where (%(before)s::bigint is null or id < %(before)s)
  and (%(target)s::text is null or target = %(target)s)
  and (%(action)s::text is null or action = %(action)s)
  and (%(actor)s::text is null or actor = %(actor)s)
order by id desc
limit %(limit)s
"""


class UserRow(msgspec.Struct, frozen=True):
    """Units: whole credits."""

    id: uuid.UUID
    created_at: datetime
    available: int
    reserved: int
    debt: int


class AuditRow(msgspec.Struct, frozen=True):
    id: int
    actor: str
    action: str
    target: str | None
    detail: dict[str, Any]
    created_at: datetime


class AuditFilters(msgspec.Struct, frozen=True):
    target: str | None = None
    action: str | None = None
    actor: str | None = None


async def list_users(
    conn: Connection, *, id_prefix: str, after: uuid.UUID | None, limit: int
) -> list[UserRow]:
    """People with an account, by id. `id_prefix`: up to 32 hex digits, without hyphens."""
    rows = await fetch_all(
        conn,
        _USERS,
        {
            "after": after,
            "first": uuid.UUID(id_prefix.ljust(32, "0")),
            "last": uuid.UUID(id_prefix.ljust(32, "f")),
            "limit": limit,
        },
    )
    return msgspec.convert(rows, list[UserRow])


async def list_audit(
    conn: Connection, filters: AuditFilters, *, before: int | None, limit: int
) -> list[AuditRow]:
    """The audit log, newest first."""
    params = {**msgspec.structs.asdict(filters), "before": before, "limit": limit}
    return msgspec.convert(await fetch_all(conn, _AUDIT, params), list[AuditRow])
