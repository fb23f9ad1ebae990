"""GET /v1/me."""

import datetime as dt

from litestar import Router, get

from api.identity import CurrentUser
from api.openapi import BEARER
from api.problems import raises
from api.resources import Db
from api.schemas.me import BalanceView, Me
from core.db import Connection
from core.errors import NotAllowedError
from core.people import service


@get(
    "/v1/me",
    operation_id="get_me",
    summary="Who am I, and what can I spend",
    description="The first call of a verified person opens the account and grants the sign-up"
    " credits, once per person.",
    tags=["Me"],
    security=BEARER,
    responses=raises(NotAllowedError),
)
async def get_me(user: CurrentUser, db: Db) -> Me:
    async def work(conn: Connection) -> service.Account:
        return await service.get_or_open_account(conn, user.client_network)

    account = await db.run(work, scope=user.scope)
    claims = user.claims
    return Me(
        id=claims.user_id,
        email=claims.email,
        role="admin" if claims.is_admin else "user",
        aal=claims.aal,
        created_at=account.created_at,
        session_expires_at=dt.datetime.fromtimestamp(claims.expires_at, dt.UTC),
        balance=BalanceView(account.available, account.reserved, account.debt),
    )


router = Router("/", route_handlers=[get_me])
