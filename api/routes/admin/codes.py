"""Promo and gift codes: create, list, read, withdraw. For admins."""

import uuid
from datetime import datetime
from typing import Annotated

import msgspec
from litestar import Router, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from api.http.once import ONCE_ERRORS, REPLAYED_HEADER, OnceKey
from api.http.pages import AskedPage, Keyset, Page, read_page
from api.identity import CurrentAdmin
from api.openapi import ADMIN
from api.problems import raises
from api.resources import Db
from api.schemas.admin.codes import (
    CodeRedemptionView,
    CodeView,
    CreateCodes,
    DisabledIssueView,
    NewCodesView,
    NewCodeView,
)
from core.codes import service
from core.codes.errors import CodeReason
from core.codes.types import (
    Code,
    CodeFilters,
    CodeKind,
    CodeStatus,
    RedemptionRow,
    Terms,
    prefix_of,
)
from core.db import Connection
from core.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError

Prefix = Annotated[
    str | None,
    QueryParameter(description="The beginning of a code, such as JSG-7K3M.", max_length=20),
]
Campaign = Annotated[str | None, QueryParameter(max_length=100)]

_NEWEST_CODE_FIRST: Keyset[Code, uuid.UUID] = Keyset(uuid.UUID, lambda code: code.id)
_NEWEST_REDEMPTION_FIRST: Keyset[RedemptionRow, tuple[datetime, uuid.UUID]] = Keyset(
    tuple[datetime, uuid.UUID], lambda row: (row.redeemed_at, row.user_id)
)


@post(
    "/v1/admin/codes",
    operation_id="admin_create_codes",
    summary="Make promo or gift codes",
    description="One or many on the same terms, audited. **The answer is the only place where the"
    " codes are ever shown**: only their hashes are kept. A repetition with the same key answers"
    " with the codes left out, and after 24 hours `409`: disable the issue and use another key.",
    tags=["Admin"],
    security=ADMIN,
    status_code=201,
    response_headers=[REPLAYED_HEADER],
    responses=raises(NotAllowedError, ConflictError, *ONCE_ERRORS, body=True),
)
async def create_codes(
    admin: CurrentAdmin,
    db: Db,
    once: OnceKey,
    data: JSONBody[CreateCodes],
) -> NewCodesView:
    terms = msgspec.convert(data, Terms, from_attributes=True)
    issue = service.new_issue(data.count, actor=admin.actor, key=once.key)

    async def create(conn: Connection) -> NewCodesView:
        await service.create(conn, issue, terms)
        return NewCodesView(
            issue.id, [NewCodeView(code.id, code.text, code.prefix) for code in issue.codes]
        )

    return await once.run(db, admin.scope, NewCodesView, create)


@get(
    "/v1/admin/codes",
    operation_id="admin_list_codes",
    summary="Codes, newest first",
    tags=["Admin"],
    security=ADMIN,
    responses=raises(NotAllowedError, InvalidInputError),
)
async def list_codes(
    admin: CurrentAdmin,
    db: Db,
    page: AskedPage,
    *,
    kind: FromQuery[CodeKind | None] = None,
    status: FromQuery[CodeStatus | None] = None,
    campaign: Campaign = None,
    issue_id: FromQuery[uuid.UUID | None] = None,
    prefix: Prefix = None,
) -> Page[CodeView]:
    stored_prefix = prefix_of(prefix) if prefix is not None else None
    if prefix is not None and stored_prefix is None:
        raise InvalidInputError(field="prefix", reason=CodeReason.NOT_THE_BEGINNING_OF_A_CODE)
    filters = CodeFilters(
        kind=kind, status=status, campaign=campaign, issue_id=issue_id, prefix=stored_prefix
    )
    found = await read_page(
        db,
        admin.scope,
        page,
        _NEWEST_CODE_FIRST,
        lambda conn, before, limit: service.list_codes(conn, filters, before=before, limit=limit),
    )
    return found.show(_code_view)


@get(
    "/v1/admin/codes/{code_id:uuid}",
    operation_id="admin_get_code",
    summary="One code",
    tags=["Admin"],
    security=ADMIN,
    responses=raises(NotAllowedError, NotFoundError),
)
async def get_code(admin: CurrentAdmin, db: Db, code_id: FromPath[uuid.UUID]) -> CodeView:
    async def work(conn: Connection) -> Code:
        return await service.get_code(conn, code_id)

    return _code_view(await db.run(work, scope=admin.scope))


@get(
    "/v1/admin/codes/{code_id:uuid}/redemptions",
    operation_id="admin_list_redemptions",
    summary="Who redeemed a code, newest first",
    tags=["Admin"],
    security=ADMIN,
    responses=raises(NotAllowedError, NotFoundError, InvalidInputError),
)
async def list_redemptions(
    admin: CurrentAdmin, db: Db, page: AskedPage, code_id: FromPath[uuid.UUID]
) -> Page[CodeRedemptionView]:
    found = await read_page(
        db,
        admin.scope,
        page,
        _NEWEST_REDEMPTION_FIRST,
        lambda conn, before, limit: service.list_redemptions(
            conn, code_id, before=before, limit=limit
        ),
    )
    return found.show(lambda row: msgspec.convert(row, CodeRedemptionView, from_attributes=True))


@post(
    "/v1/admin/codes/{code_id:uuid}/disable",
    operation_id="admin_disable_code",
    summary="Withdraw a code",
    description="Audited. What was redeemed stays redeemed.",
    tags=["Admin"],
    security=ADMIN,
    status_code=200,
    responses=raises(NotAllowedError, NotFoundError),
)
async def disable_code(admin: CurrentAdmin, db: Db, code_id: FromPath[uuid.UUID]) -> CodeView:
    async def work(conn: Connection) -> Code:
        return await service.disable(conn, code_id)

    return _code_view(await db.run(work, scope=admin.scope))


@post(
    "/v1/admin/code-issues/{issue_id:uuid}/disable",
    operation_id="admin_disable_code_issue",
    summary="Withdraw all codes of an issue",
    description="Audited. What was redeemed stays redeemed.",
    tags=["Admin"],
    security=ADMIN,
    status_code=200,
    responses=raises(NotAllowedError, NotFoundError),
)
async def disable_code_issue(
    admin: CurrentAdmin, db: Db, issue_id: FromPath[uuid.UUID]
) -> DisabledIssueView:
    async def work(conn: Connection) -> int:
        return await service.disable_issue(conn, issue_id)

    return DisabledIssueView(issue_id, await db.run(work, scope=admin.scope))


def _code_view(code: Code) -> CodeView:
    return msgspec.convert(code, CodeView, from_attributes=True)


router = Router(
    "/",
    route_handlers=[
        create_codes,
        list_codes,
        get_code,
        list_redemptions,
        disable_code,
        disable_code_issue,
    ],
)
