"""For admins: Stripe's events and their replay, orders, and returns of any amount of money."""

import uuid
from datetime import datetime
from typing import Annotated

from litestar import Response, Router, get, post
from litestar.datastructures import ResponseHeader
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from api.http.once import KEY_REQUIRED, ONCE_ERRORS, REPLAYED_HEADER, OnceKey
from api.http.pages import NEWEST_FIRST, AskedPage, Keyset, Page, read_page
from api.identity import CurrentAdmin
from api.openapi import ADMIN
from api.problems import raises
from api.resources import AppResources, Db
from api.routes.payments import States
from api.schemas.admin.payments import (
    AdminOrderDetailView,
    AdminOrderView,
    CreateAdminRefund,
    EventDetailView,
    EventView,
    ReplayedEvents,
    ReplayEvents,
    event_detail_view,
    event_view,
    order_detail_view,
    order_view,
)
from api.schemas.refunds import RefundView, refund_view
from core.db import Connection
from core.errors import (
    ConflictError,
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    NotSetUpError,
)
from core.ids import new_id
from core.payments import returns, service
from core.payments.errors import PaymentReason
from core.payments.stripe import events
from core.payments.stripe.types import StripeEvent
from core.payments.types import Order, OrderFilters, OrderPayment, Return

Types = Annotated[
    list[Annotated[str, QueryParameter(max_length=255)]] | None,
    QueryParameter(name="type", description="Only these types; may be repeated."),
]
_NEWEST_EVENT_FIRST: Keyset[StripeEvent, tuple[datetime, str]] = Keyset(
    tuple[datetime, str], lambda event: (event.received_at, event.id)
)
_RETURNS_SHOWN = 100


@get(
    "/v1/admin/webhooks",
    operation_id="admin_list_stripe_events",
    summary="What Stripe told us, newest first",
    description="Handled events are deleted after 30 days: they hold names and addresses.",
    tags=["Admin"],
    security=ADMIN,
    responses=raises(NotAllowedError, InvalidInputError),
)
async def list_events(
    admin: CurrentAdmin,
    db: Db,
    page: AskedPage,
    *,
    types: Types = None,
    waiting_only: Annotated[bool, QueryParameter(description="Leave out handled ones.")] = False,
    order_id: FromQuery[uuid.UUID | None] = None,
) -> Page[EventView]:
    found = await read_page(
        db,
        admin.scope,
        page,
        _NEWEST_EVENT_FIRST,
        lambda conn, before, limit: events.list_events(
            conn,
            types=tuple(types or ()),
            waiting_only=waiting_only,
            order_id=order_id,
            before=before,
            limit=limit,
        ),
    )
    return found.show(event_view)


@get(
    "/v1/admin/webhooks/{event_id:str}",
    operation_id="admin_get_stripe_event",
    summary="One event with its payload",
    tags=["Admin"],
    security=ADMIN,
    responses=raises(NotAllowedError, NotFoundError),
)
async def get_event(admin: CurrentAdmin, db: Db, event_id: FromPath[str]) -> EventDetailView:
    async def work(conn: Connection) -> StripeEvent:
        return await events.get_event(conn, event_id)

    return event_detail_view(await db.run(work, scope=admin.scope))


@post(
    "/v1/admin/webhooks/{event_id:str}/replay",
    operation_id="admin_replay_stripe_event",
    summary="Handle one event again",
    description="Audited. Its order is synced again; nothing is granted or taken twice.",
    tags=["Admin"],
    security=ADMIN,
    status_code=202,
    response_headers=[REPLAYED_HEADER],
    responses=raises(NotAllowedError, NotFoundError, *ONCE_ERRORS),
)
async def replay_event(
    admin: CurrentAdmin, db: Db, once: OnceKey, event_id: FromPath[str]
) -> EventView:
    async def replay(conn: Connection) -> EventView:
        await events.get_event(conn, event_id)
        await events.replay(conn, ids=[event_id], limit=1)
        return event_view(await events.get_event(conn, event_id))

    return await once.run(db, admin.scope, EventView, replay)


@post(
    "/v1/admin/webhooks/replay",
    operation_id="admin_replay_stripe_events",
    summary="Handle many events again",
    description="Audited. The oldest are taken first; when there are more than `limit`, go on with"
    " `from`. Nothing is granted or taken twice.",
    tags=["Admin"],
    security=ADMIN,
    status_code=202,
    response_headers=[REPLAYED_HEADER],
    responses=raises(NotAllowedError, *ONCE_ERRORS, body=True),
)
async def replay_events(
    admin: CurrentAdmin, db: Db, once: OnceKey, data: JSONBody[ReplayEvents]
) -> ReplayedEvents:
    if data.received_from is None and data.received_to is None and data.types is None:
        raise InvalidInputError(field="from", reason=PaymentReason.FROM_TO_OR_TYPES_NEEDED)

    async def replay(conn: Connection) -> ReplayedEvents:
        replayed = await events.replay(
            conn,
            received_from=data.received_from,
            received_to=data.received_to,
            types=data.types,
            limit=data.limit,
        )
        return ReplayedEvents(replayed, may_be_more=len(replayed) == data.limit)

    return await once.run(db, admin.scope, ReplayedEvents, replay)


@get(
    "/v1/admin/orders",
    operation_id="admin_list_orders",
    summary="Orders, newest first",
    description="`review_reason` says what of a payment differs from its order: nothing is granted"
    " for it until `POST /v1/admin/orders/{id}/review` or a refund ends the review. `paid_twice`:"
    " it is granted, and the refund of its second payment ends it.",
    tags=["Admin"],
    security=ADMIN,
    responses=raises(NotAllowedError, InvalidInputError),
)
async def list_orders(
    admin: CurrentAdmin,
    db: Db,
    page: AskedPage,
    *,
    states: States = None,
    user_id: FromQuery[uuid.UUID | None] = None,
    in_review: Annotated[
        bool, QueryParameter(description="Only those that a person must decide.")
    ] = False,
) -> Page[AdminOrderView]:
    found = await read_page(
        db,
        admin.scope,
        page,
        NEWEST_FIRST,
        lambda conn, before, limit: service.list_orders(
            conn,
            OrderFilters(states=tuple(states or ()), user_id=user_id, in_review=in_review),
            before=before,
            limit=limit,
        ),
    )
    return found.show(order_view)


@get(
    "/v1/admin/orders/{order_id:uuid}",
    operation_id="admin_get_order",
    summary="One order with its refunds",
    tags=["Admin"],
    security=ADMIN,
    responses=raises(NotAllowedError, NotFoundError),
)
async def get_order(
    admin: CurrentAdmin, db: Db, order_id: FromPath[uuid.UUID]
) -> AdminOrderDetailView:
    async def work(conn: Connection) -> tuple[Order, list[Return], list[OrderPayment]]:
        order = await service.get_order(conn, order_id)
        made = await returns.list_returns(
            conn, order_id=order_id, before=None, limit=_RETURNS_SHOWN
        )
        return order, made, await returns.list_other_payments(conn, order_id)

    return order_detail_view(*await db.run(work, scope=admin.scope))


@post(
    "/v1/admin/refunds",
    operation_id="admin_create_refund",
    summary="Refund any amount of an order",
    description="Audited. The credits that the amount is worth are clawed back at once, spent or"
    " not: what is not there becomes debt. Of an order that was paid twice the payment is refunded"
    " that nothing was given for, and no credits go.",
    tags=["Admin"],
    security=ADMIN,
    status_code=202,
    response_headers=[
        ResponseHeader(name="Location", description="The order.", documentation_only=True),
        REPLAYED_HEADER,
    ],
    dependencies=KEY_REQUIRED,
    responses=raises(
        NotAllowedError, NotFoundError, ConflictError, NotSetUpError, *ONCE_ERRORS, body=True
    ),
)
async def create_refund(
    admin: CurrentAdmin,
    resources: AppResources,
    once: OnceKey,
    data: JSONBody[CreateAdminRefund],
) -> Response[RefundView]:
    resources.require_payments()
    minted = new_id()

    async def ask(conn: Connection) -> RefundView:
        made = await returns.admin_return(
            conn,
            minted,
            data.order_id,
            amount=data.amount,
            reason=data.reason,
            key=once.required_key,
            payment_id=data.payment_intent,
        )
        return refund_view(made)

    return Response(
        await once.run(resources.db, admin.scope, RefundView, ask),
        status_code=202,
        headers={"Location": f"/v1/admin/orders/{data.order_id}"},
    )


router = Router(
    "/",
    route_handlers=[
        list_events,
        get_event,
        replay_event,
        replay_events,
        list_orders,
        get_order,
        create_refund,
    ],
)
