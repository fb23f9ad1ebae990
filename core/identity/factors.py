"""The second factors of admins: who uses which, and who answers for it."""

import uuid
from datetime import datetime

import msgspec

from core.db import Connection, fetch_all, fetch_one
from core.errors import NotFoundError


class AdminFactor(msgspec.Struct, frozen=True):
    """A verified second factor of somebody with the role of an admin."""

    factor_id: uuid.UUID
    admin_id: uuid.UUID
    email: str | None
    friendly_name: str | None
    factor_type: str
    enrolled_at: datetime
    confirmed_at: datetime | None
    confirmed_by: str | None


async def list_admin_factors(conn: Connection) -> list[AdminFactor]:
    """Those first that nobody has confirmed."""
    rows = await fetch_all(
        conn,
        "select factor_id, admin_id, email, friendly_name, factor_type, enrolled_at, confirmed_at,"
        " confirmed_by from app.list_admin_factors()",
    )
    return msgspec.convert(rows, list[AdminFactor])


async def confirm_admin_factor(
    conn: Connection, factor_id: uuid.UUID, *, reason: str
) -> AdminFactor:
    """Answer for a second factor. Audited. For admins and the break-glass key.

    Raises: NotAllowedError, NotFoundError. Replay: does nothing more.
    """
    await conn.execute("select app.confirm_admin_factor(%s, %s)", (factor_id, reason))
    for factor in await list_admin_factors(conn):
        if factor.factor_id == factor_id:
            return factor
    raise NotFoundError(kind="admin_factor")


async def report_factor(conn: Connection) -> bool:
    """Audit that an admin's account uses a factor that nobody has confirmed; whether it was new.

    In the person's scope. Raises: NoIdentityError, NotAllowedError.
    """
    row = await fetch_one(conn, "select app.report_factor() as is_new")
    return row is not None and bool(row["is_new"])
