"""Redeeming a promo or gift code."""

import msgspec
from litestar import Router, post
from litestar.params import JSONBody

from api.http.once import ONCE_ERRORS, REPLAYED_HEADER, OnceKey
from api.identity import CurrentUser, account_guard
from api.openapi import BEARER
from api.problems import raises
from api.resources import AppResources, Db
from api.schemas.codes import RedeemCode, RedemptionView
from core.codes import service
from core.codes.errors import ExpiredCodeError, UnknownCodeError, UsedUpCodeError
from core.db import Connection
from core.errors import ConflictError, NotAllowedError, NotFoundError
from core.people.keys import tell_who_calls


@post(
    "/v1/codes/redeem",
    operation_id="redeem_code",
    summary="Redeem a promo or gift code",
    description="Each person once for each code; the same code again answers what it gave the"
    " first time. The credits are a lot of their own, with a time to live of their own, and pay a"
    " debt first. A code that was withdrawn looks like one that never was. Ten tries an hour, right"
    " or wrong.",
    tags=["Credits"],
    security=BEARER,
    status_code=200,
    response_headers=[REPLAYED_HEADER],
    opt={"rate_limit": "codes"},
    guards=[account_guard],
    responses=raises(
        NotAllowedError,
        NotFoundError,
        UnknownCodeError,
        ConflictError,
        ExpiredCodeError,
        UsedUpCodeError,
        *ONCE_ERRORS,
        body=True,
    ),
)
async def redeem_code(
    user: CurrentUser, resources: AppResources, db: Db, once: OnceKey, data: JSONBody[RedeemCode]
) -> RedemptionView:
    async def redeem(conn: Connection) -> RedemptionView:
        await tell_who_calls(conn, resources.person_keys, user.client_ip)
        redemption = await service.redeem(conn, data.code)
        return msgspec.convert(redemption, RedemptionView, from_attributes=True)

    return await once.run(db, user.scope, RedemptionView, redeem)


router = Router("/", route_handlers=[redeem_code])
