"""Waiting for a generation: `Prefer: wait` and server-sent events.

Both are woken by the change hub and read the row as the user; no wait holds a connection of the
pool, and a lost wake-up costs one look a second.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from litestar import get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, HeaderParameter
from litestar.response import ServerSentEvent
from litestar.response.sse import ServerSentEventMessage

from api import security
from api.deps import AllServices, CurrentUser, User
from api.problems import raises
from api.schemas.generations import GenerationView, view_of
from api.services import Services
from core.db import Connection, Scope
from core.errors import NotFoundError, QuotaError
from core.generations import service
from core.generations.service import Generation

HEARTBEAT_SECONDS = 15.0
STREAMS_PER_USER_MAX = 20

LastEventId = Annotated[
    str | None,
    HeaderParameter(
        name="Last-Event-ID", description="The last `version` seen; older states are not repeated."
    ),
]


async def _read(services: Services, scope: Scope, generation_id: uuid.UUID) -> Generation:
    async def work(conn: Connection) -> Generation:
        return await service.get(conn, generation_id)

    return await services.db.run(work, scope=scope)


async def _wait(changed: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return
    changed.clear()


async def wait_until_finished(
    services: Services, scope: Scope, generation_id: uuid.UUID, *, seconds: float
) -> Generation:
    """The generation when it has ended, or as it is after `seconds`."""
    until = time.monotonic() + seconds
    with services.hub.watch(generation_id) as changed:
        while True:
            generation = await _read(services, scope, generation_id)
            left = until - time.monotonic()
            if generation.is_finished or left <= 0:
                return generation
            await _wait(changed, min(left, services.hub.LOOK_SECONDS))


@get(
    "/v1/generations/{generation_id:uuid}/events",
    operation_id="stream_generation_events",
    summary="Follow a generation (server-sent events)",
    description="A snapshot on connect, then each change; the event's id is the generation's"
    " `version`, its data the generation. A comment every 15 s keeps the line open. The stream"
    " ends with the generation, or with the access token.",
    tags=["Generations"],
    security=security.BEARER,
    responses={
        **raises(NotFoundError, QuotaError),
        200: ResponseSpec(
            GenerationView,
            description="A stream of `generation` events",
            media_type="text/event-stream",
            generate_examples=False,
        ),
    },
)
async def stream_generation_events(
    user: CurrentUser,
    services: AllServices,
    generation_id: FromPath[uuid.UUID],
    last_event_id: LastEventId = None,
) -> ServerSentEvent:
    first = await _read(services, user.scope, generation_id)
    seen = int(last_event_id) if last_event_id and last_event_id.isdecimal() else 0
    _count(services, user, +1)
    return ServerSentEvent(
        _events(services, user, first, seen=seen),
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def _count(services: Services, user: User, change: int) -> None:
    """Raises: QuotaError above the number of streams that one person may hold open here."""
    held = services.streams[user.claims.user_id] + change
    if held > STREAMS_PER_USER_MAX:
        raise QuotaError(reason="event_streams", limit=STREAMS_PER_USER_MAX)
    if held:
        services.streams[user.claims.user_id] = held
    else:
        services.streams.pop(user.claims.user_id, None)


async def _events(
    services: Services, user: User, first: Generation, *, seen: int
) -> AsyncIterator[ServerSentEventMessage]:
    quiet_since = time.monotonic()
    generation = first
    try:
        with services.hub.watch(first.id) as changed:
            while time.time() < user.claims.expires_at:
                if generation.version > seen:
                    seen = generation.version
                    quiet_since = time.monotonic()
                    yield _message(generation)
                elif time.monotonic() - quiet_since >= HEARTBEAT_SECONDS:
                    quiet_since = time.monotonic()
                    yield ServerSentEventMessage(data=None, comment="heartbeat")
                if generation.is_finished:
                    return
                await _wait(changed, services.hub.LOOK_SECONDS)
                generation = await _read(services, user.scope, first.id)
    finally:
        _count(services, user, -1)


def _message(generation: Generation) -> ServerSentEventMessage:
    return ServerSentEventMessage(
        event="generation",
        id=str(generation.version),
        data=msgspec.json.encode(view_of(generation)).decode(),
    )
