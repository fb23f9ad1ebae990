"""Waiting for a generation: `Prefer: wait` and server-sent events.

Both are woken by the change hub and read the row as the user; no wait holds a connection of the
pool, and a lost wake-up costs one read a second.
"""

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

from api.http.wait import Wait, pause_until_changed
from api.identity import CurrentUser, User
from api.openapi import BEARER
from api.problems import raises
from api.resources import AppResources, Resources
from api.schemas.generations import GenerationEvent, view_of
from core.db import Connection, Scope
from core.errors import NotFoundError, QuotaError
from core.generations import service
from core.generations.errors import GenerationReason
from core.generations.types import Generation

STREAMS_PER_USER_MAX = 20
_VERSION_DIGITS_MAX = 18  # a bigint

LastEventId = Annotated[
    str | None,
    HeaderParameter(
        name="Last-Event-ID", description="The last `version` seen; older states are not repeated."
    ),
]


async def _read(resources: Resources, scope: Scope, generation_id: uuid.UUID) -> Generation:
    async def work(conn: Connection) -> Generation:
        return await service.get(conn, generation_id)

    return await resources.db.run(work, scope=scope)


async def wait_until_finished(
    resources: Resources, scope: Scope, generation_id: uuid.UUID, wait: Wait
) -> Generation:
    """The generation when it has ended, or as it is when the time is over.

    Raises: NotFoundError.
    """
    hub = resources.hub
    with hub.watch(generation_id) as changed:
        return await wait.until(
            lambda generation: generation.is_finished,
            lambda: _read(resources, scope, generation_id),
            pause=lambda left: pause_until_changed(changed, min(left, hub.recheck_seconds)),
        )


@get(
    "/v1/generations/{generation_id:uuid}/events",
    operation_id="stream_generation_events",
    summary="Follow a generation (server-sent events)",
    description="A snapshot on connect, then each change; the event's id is the generation's"
    " `version`, its data the generation. A comment now and then keeps the line open. The stream"
    " ends with the generation, or with the access token. Who comes back with a `Last-Event-ID`"
    " that was the last there is gets `204`, which tells an EventSource not to come back.",
    tags=["Generations"],
    security=BEARER,
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
    resources: AppResources,
    generation_id: FromPath[uuid.UUID],
    last_event_id: LastEventId = None,
) -> Response[Any]:
    first = await _read(resources, user.scope, generation_id)
    seen = _read_event_id(last_event_id)
    if first.is_finished and first.version <= seen:
        return Response(None, status_code=204)
    if _is_full(resources, user.claims.user_id):
        raise QuotaError(reason=GenerationReason.EVENT_STREAMS, limit=STREAMS_PER_USER_MAX)
    return ServerSentEvent(
        _events(resources, user, first, seen=seen),
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def _read_event_id(last_event_id: str | None) -> int:
    """A version, or 0 for what is none: then everything is news."""
    known = last_event_id or ""
    is_version = len(known) <= _VERSION_DIGITS_MAX and known.isascii() and known.isdecimal()
    return int(known) if is_version else 0


def _is_full(resources: Resources, user_id: uuid.UUID) -> bool:
    """Whether a person holds as many streams open here as one may."""
    return resources.streams[user_id] >= STREAMS_PER_USER_MAX


@contextlib.contextmanager
def _counted(resources: Resources, user_id: uuid.UUID) -> Iterator[None]:
    resources.streams[user_id] += 1
    try:
        yield
    finally:
        resources.streams[user_id] -= 1
        if resources.streams[user_id] <= 0:
            del resources.streams[user_id]


async def _events(
    resources: Resources, user: User, first: Generation, *, seen: int
) -> AsyncIterator[ServerSentEventMessage]:
    """Counted from its first step on: a client that left before that leaves nothing behind."""
    if _is_full(resources, user.claims.user_id):
        return  # others were quicker; the next connection is answered 429
    heartbeat_seconds = resources.settings.event_heartbeat_seconds
    generation = first
    with _counted(resources, user.claims.user_id), resources.hub.watch(first.id) as changed:
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
            await pause_until_changed(
                changed, min(resources.hub.recheck_seconds, heartbeat_seconds)
            )
            generation = await _read(resources, user.scope, first.id)


def _message(generation: Generation) -> ServerSentEventMessage:
    return ServerSentEventMessage(
        event="generation",
        id=str(generation.version),
        data=msgspec.json.encode(view_of(generation)).decode(),
    )
