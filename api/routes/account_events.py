"""GET /v1/me/events."""

from litestar import Router, get

from api.http.params import Cursor, PageSize
from api.identity import CurrentUser
from api.openapi import BEARER
from api.problems import raises
from api.resources import Db
from api.schemas.account_events import AccountEventView
from api.schemas.common import Page, decode_cursor, encode_cursor
from core.db import Connection
from core.errors import InvalidInputError
from core.people import events
from core.people.events import AccountEvent


@get(
    "/v1/me/events",
    operation_id="list_account_events",
    summary="What happened to my account, newest first",
    description="`credits.low` when what is left falls to the low mark, `credits.empty` when it"
    " falls to nothing, each once until credits come in again. Left are available and reserved"
    " credits together, so that setting credits aside and getting them back is no event.",
    tags=["Me"],
    security=BEARER,
    responses=raises(InvalidInputError),
)
async def list_account_events(
    user: CurrentUser, db: Db, *, cursor: Cursor = None, limit: PageSize = 20
) -> Page[AccountEventView]:
    before_id = decode_cursor(cursor, int)[0] if cursor else None

    async def work(conn: Connection) -> list[AccountEvent]:
        return await events.list_events(
            conn, user.claims.user_id, before_id=before_id, limit=limit + 1
        )

    found = await db.run(work, scope=user.scope)
    page = found[:limit]
    return Page(
        items=[
            AccountEventView(event.id, event.kind, event.text, event.detail, event.created_at)
            for event in page
        ],
        next_cursor=encode_cursor(page[-1].id) if len(found) > limit else None,
    )


router = Router("/", route_handlers=[list_account_events])
