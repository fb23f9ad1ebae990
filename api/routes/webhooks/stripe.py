"""Stripe's webhook: verified on its raw bytes, stored with its task, answered at once."""

from typing import Any

import structlog
from litestar import Request, Router, post

from api.identity import context_of
from api.openapi import PUBLIC
from api.problems import raises
from api.resources import AppResources
from api.routes.webhooks.fal import BODY_BYTES_MAX
from api.schemas.payments import Received
from core.db import Connection
from core.errors import NotSetUpError, WebhookRefusedError
from core.payments.stripe import events, webhook

log = structlog.get_logger()

SIGNATURE_HEADER = "stripe-signature"


@post(
    "/v1/webhooks/stripe",
    operation_id="receive_stripe_webhook",
    summary="Stripe says that something happened",
    description="Signed in `Stripe-Signature`; any of the server's secrets will do. Types that we"
    " do not know are taken and ignored. Duplicates, late and reordered deliveries are harmless:"
    " an event only makes a worker ask Stripe.",
    tags=["Webhooks"],
    security=PUBLIC,
    status_code=200,
    request_max_body_size=BODY_BYTES_MAX,
    responses=raises(WebhookRefusedError, NotSetUpError, public=True, body=True),
    opt={"rate_limit": False},
)
async def receive_stripe_webhook(
    request: Request[Any, Any, Any], resources: AppResources
) -> Received:
    settings = resources.settings
    if not settings.stripe_webhook_secrets:
        raise NotSetUpError(what="stripe_webhooks")
    try:
        event = webhook.verify(
            settings, request.headers.get(SIGNATURE_HEADER), await request.body()
        )
    except WebhookRefusedError as error:
        await resources.limits.count_forged_webhook(context_of(request).client_ip)
        log.warning("webhook.refused", provider="stripe", reason=error.reason)
        raise

    async def work(conn: Connection) -> None:
        await events.receive(conn, event)

    await resources.db.run(work)
    return Received()


router = Router("/", route_handlers=[receive_stripe_webhook])
