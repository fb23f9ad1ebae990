"""GET /v1/me."""

import datetime as dt

from litestar import Router, get

from api.identity import CurrentUser, account_guard
from api.openapi import BEARER
from api.problems import raises
from api.resources import Db
from api.schemas.me import BalanceView, Me, WithheldView
from core.errors import NotAllowedError, NotFoundError
from core.people import service
from core.people.errors import OpeningReason
from core.words.say import say


@get(
    "/v1/me",
    operation_id="get_me",
    summary="Who am I, and what can I spend",
    tags=["Me"],
    security=BEARER,
    guards=[account_guard],
    responses=raises(NotAllowedError, NotFoundError),
)
async def get_me(user: CurrentUser, db: Db) -> Me:
    account = await db.run(service.get_account, scope=user.scope)
    claims = user.claims
    return Me(
        id=claims.user_id,
        email=claims.email,
        role="admin" if claims.is_admin else "user",
        aal=claims.aal,
        created_at=account.created_at,
        session_expires_at=dt.datetime.fromtimestamp(claims.expires_at, dt.UTC),
        balance=BalanceView(account.available, account.reserved, account.debt),
        free_credits_withheld=None if account.withheld is None else _withheld(account.withheld),
    )


def _withheld(reason: OpeningReason) -> WithheldView:
    never = reason is OpeningReason.PERSON_HAD_CREDITS
    return WithheldView(reason, say(f"reason.{reason}"), None if never else "purchase")


router = Router("/", route_handlers=[get_me])
