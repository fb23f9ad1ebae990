"""Checkout: buy a pack, and wait on the landing page for its outcome."""

import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from litestar import Request, Response, Router, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody

from api.http.once import ONCE_ERRORS, REPLAYED_HEADER, Once, OnceKey
from api.http.wait import WAIT_HEADERS, AskedWait
from api.identity import CurrentUser, User, account_guard
from api.openapi import BEARER, LOCATION
from api.problems import raises
from api.resources import AppResources, Resources
from api.schemas.payments import CreateCheckout, PaymentView, payment_view
from core.db import Connection, Database, Scope
from core.errors import (
    ConflictError,
    NotAllowedError,
    NotFoundError,
    NotSetUpError,
    QuotaError,
)
from core.ids import new_id
from core.payments import checkout, service
from core.payments.context import Buyer
from core.payments.types import UNSETTLED, Order

AnyRequest = Request[Any, Any, Any]

SYNC_AGAIN_SECONDS = 3.0


@post(
    "/v1/checkout",
    operation_id="create_checkout",
    summary="Buy a credit pack",
    description="Opens a payment page: send the buyer to `checkout_url`. An open order for the same"
    " pack is reused: then the answer is `200` with the same URL. The credits arrive when Stripe"
    " says that it is paid; `GET /v1/checkout/{order_id}` tells. After a `503` send the same"
    " request again: it continues with the same order.",
    tags=["Payments"],
    security=BEARER,
    status_code=201,
    response_headers=[LOCATION, REPLAYED_HEADER],
    opt={"rate_limit": "checkout"},
    guards=[account_guard],
    responses={
        **raises(
            NotAllowedError,
            NotFoundError,
            ConflictError,
            QuotaError,
            NotSetUpError,
            *ONCE_ERRORS,
            body=True,
        ),
        200: ResponseSpec(
            PaymentView, description="An open order is reused", generate_examples=False
        ),
    },
)
async def create_checkout(
    user: CurrentUser,
    resources: AppResources,
    once: OnceKey,
    data: JSONBody[CreateCheckout],
) -> Response[PaymentView]:
    context = resources.checkout_context()
    started, is_new = await _start(resources, user, once, data.pack)
    order = await checkout.open_session(context, buyer_of(user), started)
    return Response(
        payment_view(order),
        status_code=201 if is_new else 200,
        headers={"Location": f"/v1/checkout/{order.id}"},
    )


def buyer_of(user: User) -> Buyer:
    return Buyer(user.claims.user_id, user.claims.email, user.scope)


class _Started(msgspec.Struct, frozen=True):
    """What is kept of an answer: the page is opened after the transaction, and a repetition goes
    on where the first one stopped."""

    order_id: uuid.UUID
    is_new: bool


async def _start(
    resources: Resources, user: User, once: Once, pack: str
) -> tuple[checkout.Checkout, bool]:
    """The checkout, and whether it is a new one."""
    minted = new_id()
    claim = await once.claim()

    async def start(conn: Connection) -> _Started:
        order_id = await checkout.start_order(conn, minted, pack)
        return _Started(order_id, is_new=order_id == minted)

    async def work(conn: Connection) -> tuple[checkout.Checkout, bool]:
        started = await once.answer_in(conn, claim, _Started, start)
        return await checkout.go_on(conn, started.order_id), started.is_new

    return await resources.db.run(work, scope=user.scope)


@get(
    "/v1/checkout/{order_id:uuid}",
    operation_id="get_checkout",
    summary="What became of a checkout",
    description="For the page that the buyer comes back to; the buyer's own orders only. Calls"
    " for an unsettled order make a worker ask Stripe, with pauses that grow to half a minute;"
    " opening this grants nothing by itself."
    " With `Prefer: wait=n` the answer comes when the state is no longer `created`, `open` or"
    " `processing`, or after n seconds. `processing` means pending: with a slow method, such as a"
    " bank debit, the credits come by themselves within some days, so stop asking after half a"
    " minute and say so.",
    tags=["Payments"],
    security=BEARER,
    response_headers=WAIT_HEADERS,
    responses=raises(NotFoundError),
)
async def get_checkout(
    user: CurrentUser,
    resources: AppResources,
    wait: AskedWait,
    order_id: FromPath[uuid.UUID],
) -> PaymentView:
    order = await wait.until(_is_settled, _sync_and_read(resources, user.scope, order_id))
    wait.add_headers(is_settled=_is_settled(order))
    return payment_view(order)


def _sync_and_read(
    resources: Resources, scope: Scope, order_id: uuid.UUID
) -> Callable[[], Awaitable[Order]]:
    """Reads the order, and has a worker sync it the first time and every few seconds: the first
    sync may be too early, because Stripe's page sends the buyer back before Stripe's API reports
    the payment."""
    sync_at = 0.0

    async def read() -> Order:
        nonlocal sync_at
        if time.monotonic() < sync_at:
            return await read_order(resources.db, scope, order_id)
        sync_at = time.monotonic() + SYNC_AGAIN_SECONDS
        return await _request_sync(resources, scope, order_id)

    return read


async def _request_sync(resources: Resources, scope: Scope, order_id: uuid.UUID) -> Order:
    """The order as it stands; a worker is to sync it."""

    async def work(conn: Connection) -> Order:
        await service.request_sync(conn, order_id)
        return await service.get_order(conn, order_id)

    return await resources.db.run(work, scope=scope)


async def read_order(db: Database, scope: Scope, order_id: uuid.UUID) -> Order:
    """Raises: NotFoundError, also for another's order."""
    return await db.run(lambda conn: service.get_order(conn, order_id), scope=scope)


def _is_settled(order: Order) -> bool:
    return order.state not in UNSETTLED


router = Router("/", route_handlers=[create_checkout, get_checkout])
