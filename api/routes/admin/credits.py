"""For admins: find people, read their credits, adjust them, read the audit log."""

import re
import uuid
from typing import Annotated

import msgspec
from litestar import Router, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from api.http.once import KEY_REQUIRED, ONCE_ERRORS, REPLAYED_HEADER, OnceKey
from api.http.pages import AskedPage, Keyset, Page, read_page
from api.identity import CurrentAdmin
from api.openapi import ADMIN
from api.problems import raises
from api.resources import Db
from api.routes.credits import NEWEST_ENTRY_FIRST, Kinds
from api.schemas.admin.credits import (
    AdjustmentView,
    AdminEntryView,
    AuditView,
    CreateAdjustment,
    UserCreditsView,
    UserView,
)
from api.schemas.credits import balance_view, credits_view
from api.schemas.me import BalanceView
from core.admin import service as admin_service
from core.admin.service import AuditFilters, AuditRow, UserRow
from core.credits import service
from core.credits.errors import CreditReason
from core.credits.types import Entry, EntryFilters, Overview, Position
from core.db import Connection
from core.errors import (
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
)

IdPrefix = Annotated[
    str | None,
    QueryParameter(name="id", description="A user's id, or the beginning of one.", max_length=36),
]
AuditWord = Annotated[str | None, QueryParameter(max_length=255)]
_BY_ID: Keyset[UserRow, uuid.UUID] = Keyset(uuid.UUID, lambda row: row.id)
_NEWEST_AUDIT_FIRST: Keyset[AuditRow, int] = Keyset(int, lambda row: row.id)
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
    page: AskedPage,
    *,
    user_id: IdPrefix = None,
) -> Page[UserView]:
    prefix = (user_id or "").lower().replace("-", "")
    if not _HEX.fullmatch(prefix):
        raise InvalidInputError(field="id", reason=CreditReason.NOT_THE_BEGINNING_OF_AN_ID)
    found = await read_page(
        db,
        admin.scope,
        page,
        _BY_ID,
        lambda conn, after, limit: admin_service.list_users(
            conn, id_prefix=prefix, after=after, limit=limit
        ),
    )
    return found.show(
        lambda row: UserView(
            row.id, row.created_at, BalanceView(row.available, row.reserved, row.debt)
        )
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
    page: AskedPage,
    *,
    kind: Kinds = None,
    generation_id: FromQuery[uuid.UUID | None] = None,
) -> Page[AdminEntryView]:
    filters = EntryFilters(kinds=tuple(kind or ()), generation_id=generation_id)

    async def rows(conn: Connection, after: Position | None, limit: int) -> list[Entry]:
        await service.get_balance(conn, user_id)  # raises where there is no such person
        return await service.list_entries(conn, user_id, filters=filters, after=after, limit=limit)

    found = await read_page(db, admin.scope, page, NEWEST_ENTRY_FIRST, rows)
    return found.show(lambda entry: msgspec.convert(entry, AdminEntryView, from_attributes=True))


@post(
    "/v1/admin/users/{user_id:uuid}/credits/adjustments",
    operation_id="admin_adjust_credits",
    summary="Give or take credits",
    description="Written to the audit log in the same transaction. Giving pays debt first; taking"
    " more than there is leaves debt.",
    tags=["Admin"],
    security=ADMIN,
    status_code=201,
    response_headers=[REPLAYED_HEADER],
    dependencies=KEY_REQUIRED,
    responses=raises(NotAllowedError, NotFoundError, *ONCE_ERRORS, body=True),
)
async def adjust_credits(
    admin: CurrentAdmin,
    db: Db,
    once: OnceKey,
    user_id: FromPath[uuid.UUID],
    data: JSONBody[CreateAdjustment],
) -> AdjustmentView:
    async def adjust(conn: Connection) -> AdjustmentView:
        balance = await service.adjust_credits(
            conn, user_id, data.amount, reason=data.reason, key=once.required_key
        )
        return AdjustmentView(user_id, data.amount, data.reason, balance_view(balance))

    return await once.run(db, admin.scope, AdjustmentView, adjust)


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
    page: AskedPage,
    *,
    target: AuditWord = None,
    action: AuditWord = None,
    actor: AuditWord = None,
) -> Page[AuditView]:
    filters = AuditFilters(target=target, action=action, actor=actor)
    found = await read_page(
        db,
        admin.scope,
        page,
        _NEWEST_AUDIT_FIRST,
        lambda conn, before, limit: admin_service.list_audit(
            conn, filters, before=before, limit=limit
        ),
    )
    return found.show(lambda row: msgspec.convert(row, AuditView, from_attributes=True))


router = Router(
    "/",
    route_handlers=[list_users, get_user_credits, list_user_ledger, adjust_credits, list_audit],
)
