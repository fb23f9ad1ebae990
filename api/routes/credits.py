"""Credits: the balance, the ledger, and one generation's money explained."""

import uuid
from typing import Annotated

from litestar import Router, get
from litestar.params import FromPath, FromQuery, QueryParameter

from api.http.pages import AskedPage, Keyset, Page, read_page
from api.identity import CurrentUser, account_guard
from api.openapi import BEARER
from api.problems import raises
from api.resources import Db
from api.schemas.credits import (
    CreditsView,
    EntryView,
    ExplanationView,
    credits_view,
    entry_view,
    explanation_view,
)
from core.credits import service
from core.credits.types import Entry, EntryFilters, EntryKind, Overview, Position
from core.db import Connection
from core.errors import InvalidInputError, NotAllowedError, NotFoundError
from core.generations.explain import explain
from core.generations.explanation import Explanation

NEWEST_ENTRY_FIRST: Keyset[Entry, Position] = Keyset(Position, lambda entry: entry.position)
Kinds = Annotated[
    list[EntryKind] | None, QueryParameter(description="Only these kinds; may be repeated.")
]


@get(
    "/v1/credits",
    operation_id="get_credits",
    summary="My balance, and what of it expires when",
    tags=["Credits"],
    security=BEARER,
    guards=[account_guard],
    responses=raises(NotAllowedError, NotFoundError),
)
async def get_credits(user: CurrentUser, db: Db) -> CreditsView:
    async def work(conn: Connection) -> Overview:
        return await service.get_overview(conn, user.claims.user_id)

    return credits_view(await db.run(work, scope=user.scope))


@get(
    "/v1/credits/ledger",
    operation_id="list_ledger_entries",
    summary="Every line of my ledger, newest first",
    description="Each line balances: `amount` moves from `debit` to `credit`. `balance_after` is"
    " the balance as it stood after the line.",
    tags=["Credits"],
    security=BEARER,
    responses=raises(InvalidInputError),
)
async def list_ledger_entries(
    user: CurrentUser,
    db: Db,
    page: AskedPage,
    *,
    kind: Kinds = None,
    generation_id: FromQuery[uuid.UUID | None] = None,
) -> Page[EntryView]:
    filters = EntryFilters(kinds=tuple(kind or ()), generation_id=generation_id)
    found = await read_page(
        db,
        user.scope,
        page,
        NEWEST_ENTRY_FIRST,
        lambda conn, after, limit: service.list_entries(
            conn, user.claims.user_id, filters=filters, after=after, limit=limit
        ),
    )
    return found.show(entry_view)


@get(
    "/v1/credits/explain/{generation_id:uuid}",
    operation_id="explain_generation",
    summary="What one generation cost, line by line",
    description="Every booking, every request to the provider and every state of one generation in"
    " the order of time, in words that are made of the ledger's rows.",
    tags=["Credits"],
    security=BEARER,
    responses=raises(NotFoundError),
)
async def explain_generation(
    user: CurrentUser, db: Db, generation_id: FromPath[uuid.UUID]
) -> ExplanationView:
    async def work(conn: Connection) -> Explanation:
        return await explain(conn, generation_id)

    return explanation_view(await db.run(work, scope=user.scope))


router = Router("/", route_handlers=[get_credits, list_ledger_entries, explain_generation])
