"""Generations: create, list, read, cancel, retry, fetch the image."""

import uuid
from typing import Annotated, Any

from litestar import Request, Response, Router, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from api.http.once import ONCE_ERRORS, REPLAYED_HEADER, OnceKey
from api.http.pages import NEWEST_FIRST, AskedPage, Page, read_page
from api.http.wait import WAIT_HEADERS, AskedWait, Wait
from api.identity import CurrentUser
from api.openapi import BEARER, LOCATION
from api.problems import raises
from api.resources import AppResources, Db, Resources
from api.routes import generation_events
from api.routes.generation_events import wait_until_finished
from api.schemas.generations import (
    CreateGeneration,
    GenerationView,
    SignedImage,
    view_of,
)
from core.changes import Change
from core.credits.errors import InsufficientCreditsError
from core.db import Connection, Scope
from core.errors import (
    ConflictError,
    GoneError,
    InvalidInputError,
    NotFoundError,
    QuotaError,
)
from core.generations import service
from core.generations.types import Filters, Generation, GenerationState, NewGeneration
from core.ids import new_id

AnyRequest = Request[Any, Any, Any]

_WORK_HEADERS = [LOCATION, REPLAYED_HEADER, *WAIT_HEADERS]


@post(
    "/v1/generations",
    operation_id="create_generation",
    summary="Start a generation",
    description="Reserves the price and queues the work: `202` with `Location`. With"
    " `Prefer: wait=n` the answer comes when it has ended, or after n seconds. The reservation is"
    " charged when the image is delivered and refunded when it is not.",
    tags=["Generations"],
    security=BEARER,
    status_code=202,
    response_headers=_WORK_HEADERS,
    responses=raises(
        InsufficientCreditsError,
        NotFoundError,
        ConflictError,
        QuotaError,
        *ONCE_ERRORS,
        body=True,
    ),
)
async def create_generation(
    user: CurrentUser,
    resources: AppResources,
    once: OnceKey,
    wait: AskedWait,
    data: JSONBody[CreateGeneration],
) -> Response[GenerationView]:
    new = NewGeneration(
        operation=data.operation,
        upload_id=data.upload_id,
        params=data.params,
        priority=data.queue_priority,
    )

    async def start(conn: Connection) -> GenerationView:
        return view_of(await service.start(conn, new))

    view = await once.run(resources.db, user.scope, GenerationView, start)
    return await _answer(resources, user.scope, view, wait)


async def _answer(
    resources: Resources, scope: Scope, view: GenerationView, wait: Wait
) -> Response[GenerationView]:
    is_finished = False
    if wait.seconds:
        ended = await wait_until_finished(resources, scope, view.id, wait)
        view, is_finished = view_of(ended), ended.is_finished
    wait.add_headers(is_settled=is_finished)
    return Response(
        view,
        status_code=200 if is_finished else 202,
        headers={"Location": f"/v1/generations/{view.id}"},
    )


@get(
    "/v1/generations",
    operation_id="list_generations",
    summary="My generations, newest first",
    tags=["Generations"],
    security=BEARER,
    responses=raises(InvalidInputError),
)
async def list_generations(
    user: CurrentUser,
    db: Db,
    page: AskedPage,
    *,
    operation: FromQuery[str | None] = None,
    upload_id: FromQuery[uuid.UUID | None] = None,
    generation_state: Annotated[GenerationState | None, QueryParameter(name="state")] = None,
) -> Page[GenerationView]:
    filters = Filters(state=generation_state, operation=operation, upload_id=upload_id)
    found = await read_page(
        db,
        user.scope,
        page,
        NEWEST_FIRST,
        lambda conn, before, limit: service.list_generations(
            conn, filters, before=before, limit=limit
        ),
    )
    return found.show(view_of)


@get(
    "/v1/generations/{generation_id:uuid}",
    operation_id="get_generation",
    summary="One generation with its timeline",
    description="With `Prefer: wait=n` the answer comes when it has ended, or after n seconds.",
    tags=["Generations"],
    security=BEARER,
    response_headers=WAIT_HEADERS,
    responses=raises(NotFoundError),
)
async def get_generation(
    user: CurrentUser, resources: AppResources, wait: AskedWait, generation_id: FromPath[uuid.UUID]
) -> GenerationView:
    if wait.seconds:
        await wait_until_finished(resources, user.scope, generation_id, wait)
    view = await resources.db.run(lambda conn: _full_view(conn, generation_id), scope=user.scope)
    wait.add_headers(is_settled=view.finished_at is not None)
    return view


async def _full_view(conn: Connection, generation_id: uuid.UUID) -> GenerationView:
    """Raises: NotFoundError."""
    generation = await service.get(conn, generation_id)
    return view_of(
        generation,
        timeline=await service.timeline(conn, generation_id),
        late_image=await service.find_late_image(conn, generation_id)
        if generation.is_finished
        else None,
    )


@post(
    "/v1/generations/{generation_id:uuid}/cancel",
    operation_id="cancel_generation",
    summary="Cancel",
    description="Free until a step is delivered. After that the share that the operation's"
    " `cancel_credits` state is charged for the steps that were done, and the rest comes back;"
    " `cancel_credits` of a generation says what it would cost now. While a call runs this is a"
    " request to the provider: if the image is delivered all the same it is charged.",
    tags=["Generations"],
    security=BEARER,
    status_code=200,
    responses=raises(NotFoundError, ConflictError),
)
async def cancel_generation(
    user: CurrentUser, resources: AppResources, generation_id: FromPath[uuid.UUID]
) -> GenerationView:
    async def cancel(conn: Connection) -> tuple[Change, GenerationView]:
        change = await service.cancel(conn, generation_id)
        return change, await _full_view(conn, generation_id)

    change, view = await resources.db.run(cancel, scope=user.scope)
    await resources.changes.publish(change)
    return view


@post(
    "/v1/generations/{generation_id:uuid}/retry",
    operation_id="retry_generation",
    summary="Do it again",
    description="The same photo, operation and parameters as a new generation, at today's price.",
    tags=["Generations"],
    security=BEARER,
    status_code=202,
    response_headers=_WORK_HEADERS,
    responses=raises(
        InsufficientCreditsError,
        NotFoundError,
        ConflictError,
        QuotaError,
        *ONCE_ERRORS,
    ),
)
async def retry_generation(
    user: CurrentUser,
    resources: AppResources,
    once: OnceKey,
    wait: AskedWait,
    generation_id: FromPath[uuid.UUID],
) -> Response[GenerationView]:
    async def retry(conn: Connection) -> GenerationView:
        return view_of(await service.start(conn, await service.retry_terms(conn, generation_id)))

    view = await once.run(resources.db, user.scope, GenerationView, retry)
    return await _answer(resources, user.scope, view, wait)


@post(
    "/v1/generations/{generation_id:uuid}/late-image",
    operation_id="buy_late_image",
    summary="Buy an image that came late",
    description="The credits of a generation that ran out of time are refunded. If its image comes"
    " all the same it is kept for seven days and can be bought at the old price, less what was"
    " charged when it was cancelled.",
    tags=["Generations"],
    security=BEARER,
    status_code=201,
    response_headers=[LOCATION, REPLAYED_HEADER],
    responses=raises(
        InsufficientCreditsError, NotFoundError, ConflictError, GoneError, *ONCE_ERRORS
    ),
)
async def buy_late_image(
    user: CurrentUser, db: Db, once: OnceKey, generation_id: FromPath[uuid.UUID]
) -> Response[GenerationView]:
    bought_id = new_id()

    async def buy(conn: Connection) -> GenerationView:
        return view_of(await service.buy_late_image(conn, bought_id, generation_id))

    bought = await once.run(db, user.scope, GenerationView, buy)
    return Response(bought, status_code=201, headers={"Location": f"/v1/generations/{bought.id}"})


@get(
    "/v1/generations/{generation_id:uuid}/result",
    operation_id="get_generation_result",
    summary="A signed URL of the image",
    description="Outputs are private. The URL can be opened by anybody until it expires.",
    tags=["Generations"],
    security=BEARER,
    responses=raises(NotFoundError, ConflictError),
)
async def get_generation_result(
    user: CurrentUser,
    resources: AppResources,
    generation_id: FromPath[uuid.UUID],
    thumbnail: Annotated[bool, QueryParameter(description="The small preview instead.")] = False,
) -> SignedImage:
    async def work(conn: Connection) -> Generation:
        return await service.get(conn, generation_id)

    generation = await resources.db.run(work, scope=user.scope)
    file = service.result_file(generation, thumbnail=thumbnail)
    settings = resources.settings
    expires_at = service.signed_until(settings.signed_url_seconds)
    url = await resources.storage.sign(
        settings.storage_bucket_results,
        file.storage_key,
        settings.signed_url_seconds,
        # Browsers show the preview and save the image.
        download_name=None if thumbnail else file.name,
    )
    return SignedImage(
        url=url, expires_at=expires_at, content_type=file.content_type, file_name=file.name
    )


router = Router(
    "/",
    route_handlers=[
        create_generation,
        list_generations,
        get_generation,
        cancel_generation,
        retry_generation,
        buy_late_image,
        get_generation_result,
        generation_events.stream_generation_events,
    ],
)
