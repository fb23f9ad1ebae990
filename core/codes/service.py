"""Codes: made and withdrawn by admins, redeemed by people, each once a person.

A code's text exists in the answer that shows it and in the request that redeems it; what is stored
and compared is its hash.
"""

import uuid
from datetime import datetime

from core.codes import queries
from core.codes.errors import UnknownCodeError
from core.codes.types import (
    Code,
    CodeFilters,
    Issue,
    PlainCode,
    Redemption,
    RedemptionRow,
    Terms,
    digest_of,
    new_code_text,
)
from core.db import Connection
from core.errors import NotFoundError
from core.ids import new_id

# A key of an admin names one issue for ever.
_ISSUES = uuid.UUID("3e699f02-a3dd-4cd0-a4cc-47789bc20c0a")


def new_issue(count: int, *, actor: str, key: str | None) -> Issue:
    """New codes, to be stored by `create`. The same actor and key: the same id.

    Made outside the transaction, so that one that is run again keeps the same codes.
    """
    issue_id = new_id() if key is None else uuid.uuid5(_ISSUES, f"{actor} {key}")
    return Issue(issue_id, [PlainCode(new_id(), new_code_text()) for _ in range(count)])


async def create(conn: Connection, issue: Issue, terms: Terms) -> None:
    """Keep the hashes of an issue, audited. For admins.

    Raises: NotAllowedError, InvalidInputError, ConflictError (the issue exists with other codes).
    Replay: the same issue does nothing more.
    """
    await queries.create_codes(conn, issue.id, terms, issue.codes)


async def disable(conn: Connection, code_id: uuid.UUID) -> Code:
    """Withdraw one code, audited; what was redeemed stays. For admins.

    Raises: NotAllowedError, NotFoundError. Replay: does nothing more.
    """
    await queries.disable_codes(conn, code_id=code_id, issue_id=None)
    return await get_code(conn, code_id)


async def disable_issue(conn: Connection, issue_id: uuid.UUID) -> int:
    """Withdraw all codes of an issue, audited; how many were not withdrawn before. For admins.

    Raises: NotAllowedError, NotFoundError. Replay: does nothing more.
    """
    return await queries.disable_codes(conn, code_id=None, issue_id=issue_id)


async def redeem(conn: Connection, written: str) -> Redemption:
    """Give the signed-in person the credits of a code, once; debt is paid first.

    Raises: UnknownCodeError (also for a withdrawn one), ExpiredCodeError, UsedUpCodeError,
    NotFoundError without an account.
    Locks: account, code. Replay: the same answer, whatever became of the code since.
    """
    digest = digest_of(written)
    if digest is None:
        raise UnknownCodeError
    return await queries.redeem_code(conn, digest)


async def list_codes(
    conn: Connection, filters: CodeFilters, *, before: uuid.UUID | None, limit: int
) -> list[Code]:
    """Newest first."""
    return await queries.list_codes(conn, filters, before=before, limit=limit)


async def get_code(conn: Connection, code_id: uuid.UUID) -> Code:
    """Raises: NotFoundError."""
    code = await queries.find_code(conn, code_id)
    if code is None:
        raise NotFoundError(kind="code")
    return code


async def list_redemptions(
    conn: Connection,
    code_id: uuid.UUID,
    *,
    before: tuple[datetime, uuid.UUID] | None,
    limit: int,
) -> list[RedemptionRow]:
    """Who redeemed it, newest first. Raises: NotFoundError."""
    await get_code(conn, code_id)
    return await queries.list_redemptions(conn, code_id, before=before, limit=limit)
