"""Refunds, as a return of money is called on the wire: unused credits returned for money."""

import uuid
from typing import Any

from litestar import Request, Response, Router, get, post
from litestar.params import FromPath, FromQuery, JSONBody

from api.http.once import ONCE_ERRORS, REPLAYED_HEADER, OnceKey
from api.http.pages import NEWEST_FIRST, AskedPage, Page, read_page
from api.http.wait import WAIT_HEADERS, AskedWait, Wait
from api.identity import CurrentUser
from api.openapi import BEARER, LOCATION
from api.problems import raises
from api.resources import AppResources, Db
from api.schemas.refunds import CreateRefund, RefundView, refund_view
from core.db import Connection, Database, Scope
from core.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    NotSetUpError,
    QuotaError,
)
from core.ids import new_id
from core.payments import returns
from core.payments.types import ReturnState

AnyRequest = Request[Any, Any, Any]


@post(
    "/v1/refunds",
    operation_id="create_refund",
    summary="Give unused credits back",
    description="A refund here is a return of money: unused credits of one payment go, and what"
    " they cost goes back to the buyer, within the time that the terms of sale say. The credits"
    " leave the balance at once and come back if the refund is refused. Send an `Idempotency-Key`,"
    " so that two clicks are one refund; without it a second request for as many credits of the"
    " same payment is taken for the first while that is not at Stripe yet. Within 30 days a buyer"
    " may have as many as the terms say (`limit` of a 429). `202` with `Location`; with"
    " `Prefer: wait=n` the answer comes when Stripe has taken it, or after n seconds. What a failed"
    " generation gives back is credits and no refund of this kind: the ledger shows it.",
    tags=["Payments"],
    security=BEARER,
    status_code=202,
    response_headers=[
        LOCATION,
        REPLAYED_HEADER,
        *WAIT_HEADERS,
    ],
    responses=raises(
        NotFoundError,
        ConflictError,
        NotSetUpError,
        QuotaError,
        *ONCE_ERRORS,
        body=True,
    ),
)
async def create_refund(
    user: CurrentUser,
    resources: AppResources,
    once: OnceKey,
    wait: AskedWait,
    data: JSONBody[CreateRefund],
) -> Response[RefundView]:
    resources.require_payments()
    refund_id = new_id()

    async def ask(conn: Connection) -> RefundView:
        made = await returns.request_return(
            conn,
            refund_id,
            data.order_id,
            credits_=data.credits,
            reason=data.reason,
            is_distinct=once.key is not None,
        )
        once.mark_replay(is_replay=made.id != refund_id)
        return refund_view(made)

    view = await once.run(resources.db, user.scope, RefundView, ask)
    if wait.seconds:
        view = await _wait_until_asked(resources.db, user.scope, view.id, wait)
    wait.add_headers(is_settled=_is_settled(view))
    return Response(view, status_code=202, headers={"Location": f"/v1/refunds/{view.id}"})


async def _wait_until_asked(
    db: Database, scope: Scope, refund_id: uuid.UUID, wait: Wait
) -> RefundView:
    """The refund when Stripe has taken or refused it, or as it is when the time is over."""
    return await wait.until(_is_settled, lambda: _read(db, scope, refund_id))


def _is_settled(view: RefundView) -> bool:
    return view.state is not ReturnState.REQUESTED


async def _read(db: Database, scope: Scope, refund_id: uuid.UUID) -> RefundView:
    """Raises: NotFoundError."""

    async def work(conn: Connection) -> RefundView:
        return refund_view(await returns.get_return(conn, refund_id))

    return await db.run(work, scope=scope)


@get(
    "/v1/refunds",
    operation_id="list_refunds",
    summary="My refunds, newest first",
    description="Returns of money; also those that were made for me.",
    tags=["Payments"],
    security=BEARER,
    responses=raises(InvalidInputError),
)
async def list_refunds(
    user: CurrentUser,
    db: Db,
    page: AskedPage,
    *,
    order_id: FromQuery[uuid.UUID | None] = None,
) -> Page[RefundView]:
    found = await read_page(
        db,
        user.scope,
        page,
        NEWEST_FIRST,
        lambda conn, before, limit: returns.list_returns(
            conn, order_id=order_id, before=before, limit=limit
        ),
    )
    return found.show(refund_view)


@get(
    "/v1/refunds/{refund_id:uuid}",
    operation_id="get_refund",
    summary="One refund",
    description="With `Prefer: wait=n` the answer comes when Stripe has taken it, or after n"
    " seconds.",
    tags=["Payments"],
    security=BEARER,
    response_headers=WAIT_HEADERS,
    responses=raises(NotFoundError),
)
async def get_refund(
    user: CurrentUser, db: Db, wait: AskedWait, refund_id: FromPath[uuid.UUID]
) -> RefundView:
    view = await _wait_until_asked(db, user.scope, refund_id, wait)
    wait.add_headers(is_settled=_is_settled(view))
    return view


router = Router("/", route_handlers=[create_refund, list_refunds, get_refund])
