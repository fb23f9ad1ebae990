"""fal's webhook: verified on its raw bytes. It only starts a collect before polling would."""

import uuid
from typing import Any

import structlog
from litestar import Request, Router, post
from litestar.params import FromPath

from api.identity import context_of
from api.openapi import PUBLIC
from api.problems import raises
from api.resources import AppResources
from core.db import Connection
from core.errors import NotAllowedError, NotFoundError
from core.generations.pipeline import receive

log = structlog.get_logger()

BODY_BYTES_MAX = 1024 * 1024


@post(
    "/v1/webhooks/fal/{call_id:uuid}/{token:str}",
    operation_id="receive_fal_webhook",
    summary="fal.ai says that a call ended",
    description="Signed by the provider (ED25519); the path names our call. Duplicates, late and"
    " reordered deliveries are harmless.",
    tags=["Webhooks"],
    security=PUBLIC,
    status_code=204,
    request_max_body_size=BODY_BYTES_MAX,
    responses=raises(NotAllowedError, NotFoundError, public=True, body=True),
    opt={"rate_limit": False},
)
async def receive_fal_webhook(
    request: Request[Any, Any, Any],
    resources: AppResources,
    call_id: FromPath[uuid.UUID],
    token: FromPath[str],
) -> None:
    try:
        verified = await resources.fal_webhooks.verify(request.headers, await request.body())
    except NotAllowedError:
        await resources.limits.count_forged_webhook(context_of(request).client_ip)
        raise

    async def work(conn: Connection) -> None:
        await receive.receive(conn, call_id, token, request_id=verified.request_id)

    await resources.db.run(work)


router = Router("/", route_handlers=[receive_fal_webhook])
