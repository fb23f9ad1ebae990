"""What admins do with credits: find a person, read their money, correct it, read the audit log."""

import re
import uuid
from typing import Annotated

import msgspec
from litestar import Router, get, post
from litestar.params import FromPath, FromQuery, HeaderParameter, JSONBody, QueryParameter

from api.http.params import Cursor, PageSize
from api.identity import CurrentAdmin
from api.openapi import ADMIN
from api.problems import raises
from api.resources import Db
from api.routes.credits import Kinds
from api.schemas.admin.credits import (
    AdjustmentView,
    AdminEntryView,
    AuditView,
    CreateAdjustment,
    UserCreditsView,
    UserView,
)
from api.schemas.common import Page, decode_cursor, encode_cursor
from api.schemas.credits import CURSOR_TYPES, balance_view, credits_view, cursor_values, position_of
from api.schemas.me import BalanceView
from core.admin import service as admin_service
from core.admin.service import AuditFilters, AuditRow, UserRow
from core.credits import service
from core.credits.types import Balance, EntryFilters, EntryPage, Overview
from core.db import Connection
from core.errors import (
    IdempotencyMismatchError,
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
)

IdempotencyKey = Annotated[
    str,
    HeaderParameter(
        name="Idempotency-Key",
        description="Required. The same key with the same body is carried out once, for ever.",
        min_length=1,
        max_length=255,
    ),
]
IdPrefix = Annotated[
    str | None,
    QueryParameter(name="id", description="A user's id, or the beginning of one.", max_length=36),
]
AuditWord = Annotated[str | None, QueryParameter(max_length=255)]
_HEX = re.compile(r"[0-9a-f]{0,32}")


@get(
    "/v1/admin/users",
    operation_id="admin_list_users",
    summary="People and their balances",
    tags=["Admin"],
    security=ADMIN,
    responses=raises(NotAllowedError, InvalidInputError),
)
async def list_users(
    admin: CurrentAdmin,
    db: Db,
    *,
    user_id: IdPrefix = None,
    cursor: Cursor = None,
    limit: PageSize = 20,
) -> Page[UserView]:
    prefix = (user_id or "").lower().replace("-", "")
    if not _HEX.fullmatch(prefix):
        raise InvalidInputError(field="id", reason="not_the_beginning_of_an_id")
    after = decode_cursor(cursor, uuid.UUID)[0] if cursor else None

    async def work(conn: Connection) -> list[UserRow]:
        return await admin_service.list_users(conn, id_prefix=prefix, after=after, limit=limit + 1)

    found = await db.run(work, scope=admin.scope)
    page = found[:limit]
    return Page(
        items=[
            UserView(row.id, row.created_at, BalanceView(row.available, row.reserved, row.debt))
            for row in page
        ],
        next_cursor=encode_cursor(page[-1].id) if len(found) > limit else None,
    )


@get(
    "/v1/admin/users/{user_id:uuid}/credits",
    operation_id="admin_get_user_credits",
    summary="One person's balance and lots",
    tags=["Admin"],
    security=ADMIN,
    responses=raises(NotAllowedError, NotFoundError),
)
async def get_user_credits(
    admin: CurrentAdmin, db: Db, user_id: FromPath[uuid.UUID]
) -> UserCreditsView:
    async def work(conn: Connection) -> Overview:
        return await service.get_overview(conn, user_id)

    view = credits_view(await db.run(work, scope=admin.scope))
    return UserCreditsView(view.balance, view.lots, user_id=user_id)


@get(
    "/v1/admin/users/{user_id:uuid}/credits/ledger",
    operation_id="admin_list_user_ledger",
    summary="One person's ledger, newest first",
    tags=["Admin"],
    security=ADMIN,
    responses=raises(NotAllowedError, NotFoundError, InvalidInputError),
)
async def list_user_ledger(
    admin: CurrentAdmin,
    db: Db,
    user_id: FromPath[uuid.UUID],
    *,
    kind: Kinds = None,
    generation_id: FromQuery[uuid.UUID | None] = None,
    cursor: Cursor = None,
    limit: PageSize = 20,
) -> Page[AdminEntryView]:
    filters = EntryFilters(kinds=tuple(kind or ()), generation_id=generation_id)
    after = position_of(decode_cursor(cursor, *CURSOR_TYPES)) if cursor else None

    async def work(conn: Connection) -> EntryPage:
        await service.get_balance(conn, user_id)
        return await service.list_entries(conn, user_id, filters=filters, after=after, limit=limit)

    page = await db.run(work, scope=admin.scope)
    position = cursor_values(page)
    return Page(
        items=[
            msgspec.convert(entry, AdminEntryView, from_attributes=True) for entry in page.entries
        ],
        next_cursor=encode_cursor(*position) if position else None,
    )


@post(
    "/v1/admin/users/{user_id:uuid}/credits/adjustments",
    operation_id="admin_adjust_credits",
    summary="Give or take credits",
    description="Written to the audit log in the same transaction. Giving pays debt first; taking"
    " more than there is leaves debt.",
    tags=["Admin"],
    security=ADMIN,
    status_code=201,
    responses=raises(
        NotAllowedError, NotFoundError, InvalidInputError, IdempotencyMismatchError, body=True
    ),
)
async def adjust_credits(
    admin: CurrentAdmin,
    db: Db,
    user_id: FromPath[uuid.UUID],
    data: JSONBody[CreateAdjustment],
    idempotency_key: IdempotencyKey,
) -> AdjustmentView:
    async def work(conn: Connection) -> Balance:
        return await service.adjust_credits(
            conn, user_id, data.amount, reason=data.reason, key=idempotency_key
        )

    balance = await db.run(work, scope=admin.scope)
    return AdjustmentView(user_id, data.amount, data.reason, balance_view(balance))


@get(
    "/v1/admin/audit",
    operation_id="admin_list_audit",
    summary="What admins did, newest first",
    tags=["Admin"],
    security=ADMIN,
    responses=raises(NotAllowedError, InvalidInputError),
)
async def list_audit(
    admin: CurrentAdmin,
    db: Db,
    *,
    target: AuditWord = None,
    action: AuditWord = None,
    actor: AuditWord = None,
    cursor: Cursor = None,
    limit: PageSize = 20,
) -> Page[AuditView]:
    filters = AuditFilters(target=target, action=action, actor=actor)
    before = decode_cursor(cursor, int)[0] if cursor else None

    async def work(conn: Connection) -> list[AuditRow]:
        return await admin_service.list_audit(conn, filters, before=before, limit=limit + 1)

    found = await db.run(work, scope=admin.scope)
    page = found[:limit]
    return Page(
        items=[msgspec.convert(row, AuditView, from_attributes=True) for row in page],
        next_cursor=encode_cursor(page[-1].id) if len(found) > limit else None,
    )


router = Router(
    "/",
    route_handlers=[list_users, get_user_credits, list_user_ledger, adjust_credits, list_audit],
)
