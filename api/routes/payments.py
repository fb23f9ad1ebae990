"""Payments: the history, invoices, retry, and Stripe's portal."""

import uuid
from typing import Annotated

import msgspec
from litestar import Response, Router, get, post
from litestar.params import FromPath, QueryParameter

from api.http.once import ONCE_ERRORS, REPLAYED_HEADER, OnceKey
from api.http.pages import NEWEST_FIRST, AskedPage, Page, read_page
from api.identity import CurrentUser
from api.openapi import BEARER, LOCATION
from api.problems import raises
from api.resources import AppResources, Db
from api.routes.checkout import buyer_of, read_order
from api.schemas.payments import (
    InvoiceView,
    PaymentView,
    PortalView,
    invoice_view,
    payment_view,
)
from core.db import Connection
from core.errors import (
    ConflictError,
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    NotSetUpError,
    QuotaError,
)
from core.identity.acting import require_person
from core.ids import new_id
from core.payments import checkout, customers, service
from core.payments.types import OrderFilters, OrderState

States = Annotated[
    list[OrderState] | None,
    QueryParameter(name="state", description="Only these states; may be repeated."),
]


@get(
    "/v1/payments",
    operation_id="list_payments",
    summary="My payments, newest first",
    tags=["Payments"],
    security=BEARER,
    responses=raises(InvalidInputError),
)
async def list_payments(
    user: CurrentUser,
    db: Db,
    page: AskedPage,
    *,
    states: States = None,
) -> Page[PaymentView]:
    found = await read_page(
        db,
        user.scope,
        page,
        NEWEST_FIRST,
        lambda conn, before, limit: service.list_orders(
            conn, OrderFilters(states=tuple(states or ())), before=before, limit=limit
        ),
    )
    return found.show(payment_view)


@get(
    "/v1/payments/{payment_id:uuid}",
    operation_id="get_payment",
    summary="One payment",
    tags=["Payments"],
    security=BEARER,
    responses=raises(NotFoundError),
)
async def get_payment(user: CurrentUser, db: Db, payment_id: FromPath[uuid.UUID]) -> PaymentView:
    return payment_view(await read_order(db, user.scope, payment_id))


@post(
    "/v1/payments/{payment_id:uuid}/retry",
    operation_id="retry_payment",
    summary="Try a failed or expired payment again",
    description="A new payment page for the same order, at its price, once the old page can no"
    " longer be paid. Repeated, it answers the page that is open. `409` with `price_changed` where"
    " that price is sold no more: start a new checkout.",
    tags=["Payments"],
    security=BEARER,
    status_code=200,
    response_headers=[LOCATION],
    opt={"rate_limit": "checkout"},
    responses=raises(NotFoundError, NotAllowedError, ConflictError, QuotaError, NotSetUpError),
)
async def retry_payment(
    user: CurrentUser, resources: AppResources, payment_id: FromPath[uuid.UUID]
) -> Response[PaymentView]:
    context = resources.checkout_context()
    order = await checkout.retry(context, buyer_of(user), payment_id)
    return Response(payment_view(order), headers={"Location": f"/v1/checkout/{payment_id}"})


@get(
    "/v1/invoices",
    operation_id="list_invoices",
    summary="Invoices of my payments, newest first",
    description="Links to Stripe, where the invoice is shown and its PDF fetched.",
    tags=["Payments"],
    security=BEARER,
    responses=raises(InvalidInputError),
)
async def list_invoices(user: CurrentUser, db: Db, page: AskedPage) -> Page[InvoiceView]:
    found = await read_page(
        db,
        user.scope,
        page,
        NEWEST_FIRST,
        lambda conn, before, limit: service.list_orders(
            conn, OrderFilters(with_invoice=True), before=before, limit=limit
        ),
    )
    return found.show(invoice_view)


class _PortalVisit(msgspec.Struct, frozen=True):
    """What is stored of an answer: its page is a secret, and the provider returns it again."""

    id: uuid.UUID


@post(
    "/v1/portal",
    operation_id="create_portal",
    summary="Stripe's customer portal",
    description="Payments, receipts and cards at Stripe. For whoever has bought or tried to.",
    tags=["Payments"],
    security=BEARER,
    status_code=201,
    response_headers=[REPLAYED_HEADER],
    opt={"rate_limit": "portal"},
    responses=raises(NotFoundError, NotSetUpError, *ONCE_ERRORS),
)
async def create_portal(user: CurrentUser, resources: AppResources, once: OnceKey) -> PortalView:
    context = resources.checkout_context()
    minted = _PortalVisit(new_id())
    claim = await once.claim()

    async def begin(_: Connection) -> _PortalVisit:
        return minted

    async def work(conn: Connection) -> tuple[str, _PortalVisit]:
        await require_person(conn)
        customer_id = await customers.get_customer(conn, user.claims.user_id)
        return customer_id, await once.answer_in(conn, claim, _PortalVisit, begin)

    customer_id, visit = await resources.db.run(work, scope=user.scope)
    return PortalView(
        await customers.create_portal_url(context, buyer_of(user), customer_id, visit_id=visit.id)
    )


router = Router(
    "/",
    route_handlers=[list_payments, get_payment, retry_payment, list_invoices, create_portal],
)
