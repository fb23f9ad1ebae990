"""For admins: payments in review, disputes, and banks' warnings of fraud."""

import uuid
from datetime import datetime
from typing import Annotated

from litestar import Router, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from api.http.once import KEY_REQUIRED, ONCE_ERRORS, REPLAYED_HEADER, OnceKey
from api.http.pages import AskedPage, Keyset, Page, read_page
from api.identity import CurrentAdmin
from api.openapi import ADMIN
from api.problems import raises
from api.resources import AppResources, Db
from api.schemas.admin.payments import (
    Acknowledge,
    AdminOrderView,
    DecideReview,
    DisputeView,
    FraudWarningView,
    dispute_view,
    fraud_warning_view,
    order_view,
)
from core.db import Connection
from core.errors import (
    ConflictError,
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    NotSetUpError,
)
from core.ids import new_id
from core.payments import disputes, reviews
from core.payments.types import OrderDispute, OrderFraudWarning

_NEWEST_DISPUTE_FIRST: Keyset[OrderDispute, tuple[datetime, str]] = Keyset(
    tuple[datetime, str], lambda dispute: (dispute.created_at, dispute.dispute_id)
)
_NEWEST_WARNING_FIRST: Keyset[OrderFraudWarning, tuple[datetime, str]] = Keyset(
    tuple[datetime, str], lambda warning: (warning.created_at, warning.warning_id)
)


@post(
    "/v1/admin/orders/{order_id:uuid}/review",
    operation_id="admin_review_order",
    summary="Decide about a payment in review",
    description="Audited. An accepted payment is asked of Stripe once more and then granted; a"
    " rejected one is refunded. The decision is about the session that is in review now.",
    tags=["Admin"],
    security=ADMIN,
    status_code=202,
    response_headers=[REPLAYED_HEADER],
    dependencies=KEY_REQUIRED,
    responses=raises(
        NotAllowedError, NotFoundError, ConflictError, NotSetUpError, *ONCE_ERRORS, body=True
    ),
)
async def review_order(
    admin: CurrentAdmin,
    resources: AppResources,
    once: OnceKey,
    order_id: FromPath[uuid.UUID],
    data: JSONBody[DecideReview],
) -> AdminOrderView:
    resources.require_payments()
    return_id = new_id()

    async def decide(conn: Connection) -> AdminOrderView:
        order = await reviews.decide(
            conn,
            order_id,
            data.decision,
            reason=data.reason,
            return_id=return_id,
            key=once.required_key,
        )
        return order_view(order)

    return await once.run(resources.db, admin.scope, AdminOrderView, decide)


@get(
    "/v1/admin/disputes",
    operation_id="admin_list_disputes",
    summary="Disputes, newest first",
    description="`evidence_due_at` is the bank's deadline. It is answered in Stripe's dashboard.",
    tags=["Admin"],
    security=ADMIN,
    responses=raises(NotAllowedError, InvalidInputError),
)
async def list_disputes(
    admin: CurrentAdmin,
    db: Db,
    page: AskedPage,
    *,
    unanswered_only: Annotated[
        bool,
        QueryParameter(description="Only those whose bank waits, and that no admin has seen."),
    ] = False,
    user_id: FromQuery[uuid.UUID | None] = None,
    order_id: FromQuery[uuid.UUID | None] = None,
) -> Page[DisputeView]:
    found = await read_page(
        db,
        admin.scope,
        page,
        _NEWEST_DISPUTE_FIRST,
        lambda conn, before, limit: disputes.list_disputes(
            conn,
            unanswered_only=unanswered_only,
            user_id=user_id,
            order_id=order_id,
            before=before,
            limit=limit,
        ),
    )
    return found.show(dispute_view)


@post(
    "/v1/admin/disputes/{dispute_id:str}/acknowledge",
    operation_id="admin_acknowledge_dispute",
    summary="A dispute is known and decided",
    description="Audited. It is answered in Stripe's dashboard, or left to be lost: readiness"
    " counts it no more. Nothing changes at Stripe.",
    tags=["Admin"],
    security=ADMIN,
    status_code=200,
    response_headers=[REPLAYED_HEADER],
    responses=raises(NotAllowedError, NotFoundError, *ONCE_ERRORS, body=True),
)
async def acknowledge_dispute(
    admin: CurrentAdmin,
    db: Db,
    once: OnceKey,
    dispute_id: FromPath[str],
    data: JSONBody[Acknowledge],
) -> DisputeView:
    async def acknowledge(conn: Connection) -> DisputeView:
        found = await disputes.acknowledge_dispute(conn, dispute_id, reason=data.reason)
        return dispute_view(found)

    return await once.run(db, admin.scope, DisputeView, acknowledge)


@get(
    "/v1/admin/fraud-warnings",
    operation_id="admin_list_fraud_warnings",
    summary="Banks' early fraud warnings, newest first",
    description="Most become disputes within days. A full refund before, by"
    " `POST /v1/admin/refunds`, costs no dispute fee.",
    tags=["Admin"],
    security=ADMIN,
    responses=raises(NotAllowedError, InvalidInputError),
)
async def list_fraud_warnings(
    admin: CurrentAdmin,
    db: Db,
    page: AskedPage,
    *,
    open_only: Annotated[
        bool, QueryParameter(description="Only those about which something can still be done.")
    ] = False,
    user_id: FromQuery[uuid.UUID | None] = None,
    order_id: FromQuery[uuid.UUID | None] = None,
) -> Page[FraudWarningView]:
    found = await read_page(
        db,
        admin.scope,
        page,
        _NEWEST_WARNING_FIRST,
        lambda conn, before, limit: disputes.list_fraud_warnings(
            conn,
            open_only=open_only,
            user_id=user_id,
            order_id=order_id,
            before=before,
            limit=limit,
        ),
    )
    return found.show(fraud_warning_view)


@post(
    "/v1/admin/fraud-warnings/{warning_id:str}/acknowledge",
    operation_id="admin_acknowledge_fraud_warning",
    summary="A fraud warning is known and decided",
    description="Audited. The payment is left as it is: readiness counts the warning no more.",
    tags=["Admin"],
    security=ADMIN,
    status_code=200,
    response_headers=[REPLAYED_HEADER],
    responses=raises(NotAllowedError, NotFoundError, *ONCE_ERRORS, body=True),
)
async def acknowledge_fraud_warning(
    admin: CurrentAdmin,
    db: Db,
    once: OnceKey,
    warning_id: FromPath[str],
    data: JSONBody[Acknowledge],
) -> FraudWarningView:
    async def acknowledge(conn: Connection) -> FraudWarningView:
        found = await disputes.acknowledge_fraud_warning(conn, warning_id, reason=data.reason)
        return fraud_warning_view(found)

    return await once.run(db, admin.scope, FraudWarningView, acknowledge)


router = Router(
    "/",
    route_handlers=[
        review_order,
        list_disputes,
        acknowledge_dispute,
        list_fraud_warnings,
        acknowledge_fraud_warning,
    ],
)
