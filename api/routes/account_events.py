"""GET /v1/me/events."""

from litestar import Router, get

from api.http.pages import NEWEST_FIRST, AskedPage, Page, read_page
from api.identity import CurrentUser
from api.openapi import BEARER
from api.problems import raises
from api.resources import Db
from api.schemas.account_events import AccountEventView
from core.errors import InvalidInputError
from core.people import events


@get(
    "/v1/me/events",
    operation_id="list_account_events",
    summary="What happened to my account, newest first",
    description="`credits.ran_low` when what is left falls to the low mark, `credits.ran_out` when"
    " it falls to nothing, each once until credits come in again. Left are available and reserved"
    " credits together, so that setting credits aside and getting them back is no event.",
    tags=["Me"],
    security=BEARER,
    responses=raises(InvalidInputError),
)
async def list_account_events(user: CurrentUser, db: Db, page: AskedPage) -> Page[AccountEventView]:
    found = await read_page(
        db,
        user.scope,
        page,
        NEWEST_FIRST,
        lambda conn, before, limit: events.list_events(
            conn, user.claims.user_id, before=before, limit=limit
        ),
    )
    return found.show(
        lambda event: AccountEventView(
            event.id, event.type, event.text, event.payload, event.created_at
        )
    )


router = Router("/", route_handlers=[list_account_events])
