"""Waiting for a generation: `Prefer: wait` and server-sent events.

Both are woken by the change hub and read the row as the user; no wait holds a connection of the
pool, and a lost wake-up costs one look a second.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import msgspec
from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, HeaderParameter
from litestar.response import ServerSentEvent
from litestar.response.sse import ServerSentEventMessage

from api import security
from api.identity import AllServices, CurrentUser, User
from api.problems import raises
from api.resources import Services
from api.schemas.generations import GenerationEvent, view_of
from core.db import Connection, Scope
from core.errors import NotFoundError, QuotaError
from core.generations import service
from core.generations.types import Generation

STREAMS_PER_USER_MAX = 20
_VERSION_DIGITS_MAX = 18  # a bigint

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
            await _wait(changed, min(left, services.hub.look_seconds))


@get(
    "/v1/generations/{generation_id:uuid}/events",
    operation_id="stream_generation_events",
    summary="Follow a generation (server-sent events)",
    description="A snapshot on connect, then each change; the event's id is the generation's"
    " `version`, its data the generation. A comment now and then keeps the line open. The stream"
    " ends with the generation, or with the access token. Who comes back with a `Last-Event-ID`"
    " that was the last there is gets `204`, which tells an EventSource not to come back.",
    tags=["Generations"],
    security=security.BEARER,
    responses={
        **raises(NotFoundError, QuotaError),
        200: ResponseSpec(
            GenerationEvent,
            description="A stream of `generation` events",
            media_type="text/event-stream",
            generate_examples=False,
        ),
        204: ResponseSpec(
            None, description="It has ended, and you have seen that", generate_examples=False
        ),
    },
)
async def stream_generation_events(
    user: CurrentUser,
    services: AllServices,
    generation_id: FromPath[uuid.UUID],
    last_event_id: LastEventId = None,
) -> Response[Any]:
    first = await _read(services, user.scope, generation_id)
    seen = _read_event_id(last_event_id)
    if first.is_finished and first.version <= seen:
        return Response(None, status_code=204)
    if _is_full(services, user.claims.user_id):
        raise QuotaError(reason="event_streams", limit=STREAMS_PER_USER_MAX)
    return ServerSentEvent(
        _events(services, user, first, seen=seen),
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def _read_event_id(last_event_id: str | None) -> int:
    """A version, or 0 for what is none: then everything is news."""
    known = last_event_id or ""
    is_version = len(known) <= _VERSION_DIGITS_MAX and known.isascii() and known.isdecimal()
    return int(known) if is_version else 0


def _is_full(services: Services, user_id: uuid.UUID) -> bool:
    """Whether a person holds as many streams open here as one may."""
    return services.streams[user_id] >= STREAMS_PER_USER_MAX


@contextlib.contextmanager
def _counted(services: Services, user_id: uuid.UUID) -> Iterator[None]:
    services.streams[user_id] += 1
    try:
        yield
    finally:
        services.streams[user_id] -= 1
        if services.streams[user_id] <= 0:
            del services.streams[user_id]


async def _events(
    services: Services, user: User, first: Generation, *, seen: int
) -> AsyncIterator[ServerSentEventMessage]:
    """Counted from its first step on: a client that left before that leaves nothing behind."""
    if _is_full(services, user.claims.user_id):
        return  # others were quicker; who connects again is told 429
    heartbeat_seconds = services.settings.event_heartbeat_seconds
    generation = first
    with _counted(services, user.claims.user_id), services.hub.watch(first.id) as changed:
        quiet_since = time.monotonic()
        yield ServerSentEventMessage(data=None, comment="hello")
        while time.time() < user.claims.expires_at:
            if generation.version > seen:
                seen = generation.version
                quiet_since = time.monotonic()
                yield _message(generation)
            elif time.monotonic() - quiet_since >= heartbeat_seconds:
                quiet_since = time.monotonic()
                yield ServerSentEventMessage(data=None, comment="heartbeat")
            if generation.is_finished:
                return
            await _wait(changed, min(services.hub.look_seconds, heartbeat_seconds))
            generation = await _read(services, user.scope, first.id)


def _message(generation: Generation) -> ServerSentEventMessage:
    return ServerSentEventMessage(
        event="generation",
        id=str(generation.version),
        data=msgspec.json.encode(view_of(generation)).decode(),
    )
