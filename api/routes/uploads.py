"""Uploads: send a photo through us or straight to storage, list, read, delete."""

import uuid
from collections.abc import Sequence
from typing import Annotated, Any

from litestar import Request, Response, Router, delete, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter

from api.http import multipart
from api.http.once import ONCE_ERRORS, REPLAYED_HEADER, OnceKey
from api.http.pages import NEWEST_FIRST, AskedPage, Page, read_page
from api.http.wait import WAIT_HEADERS, AskedWait, Wait
from api.identity import CurrentUser, User, account_guard
from api.openapi import BEARER, LOCATION
from api.problems import raises
from api.resources import AppResources, Resources
from api.schemas.uploads import (
    DirectUploadView,
    StartDirectUpload,
    UploadView,
    direct_view_of,
    view_of,
)
from core.errors import (
    ConflictError,
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    QuotaError,
    find_reason,
)
from core.pixels.errors import PayloadTooLargeError, UnsupportedMediaError
from core.uploads import service
from core.uploads.errors import PhotoRejectedError, UploadReason
from core.uploads.service import Owner, UploadTools
from core.uploads.types import Upload, UploadId, UploadState, limits_of

AnyRequest = Request[Any, Any, Any]

_HEADERS = [LOCATION, REPLAYED_HEADER, *WAIT_HEADERS]
_READY = ResponseSpec(
    data_container=UploadView, description="Ready to be spent on", generate_examples=False
)
_WAIT = (
    " With `Prefer: wait=n` the answer comes when the photo is `ready` (201) or rejected (422"
    " with what is wrong), or after n seconds as it then is (202)."
)


@post(
    "/v1/uploads",
    operation_id="create_upload",
    summary="Send a photo",
    description="Its bytes, size and dimensions are checked at once; a worker then turns it"
    " upright, converts it to sRGB and strips its metadata. Send a few at once: of each person two"
    " are taken at a time, others wait a moment and are then refused. A photo has 60 seconds to"
    " arrive, and as much longer as it takes at 0.5 Mbit/s." + _WAIT,
    tags=["Uploads"],
    security=BEARER,
    status_code=202,
    request_max_body_size=multipart.BODY_BYTES_MAX,
    operation_class=multipart.FileOperation,
    guards=[account_guard],
    response_headers=_HEADERS,
    responses={201: _READY}
    | raises(
        UnsupportedMediaError,
        PayloadTooLargeError,
        *ONCE_ERRORS,
        QuotaError,
        NotAllowedError,
        NotFoundError,
        body=True,
    ),
)
async def create_upload(
    request: AnyRequest,
    user: CurrentUser,
    resources: AppResources,
    once: OnceKey,
    wait: AskedWait,
) -> Response[UploadView]:
    tools, owner = _tools(resources), _owner(user)
    async with tools.places.hold(owner.user_id), multipart.read_file(request) as file:
        checked = await service.check_file(tools.places, file)
        claim = once.claim_for(checked.sha256)
        taken = await service.receive(tools, owner, checked, claim=claim)
    once.mark_replay(is_replay=taken.is_replay)
    return await _answer(resources, user, taken.id, wait)


@post(
    "/v1/uploads/direct",
    operation_id="start_direct_upload",
    summary="Get a URL to send a photo to",
    description="The bytes go straight to storage: send them to `url`, then call complete. The URL"
    " is not stored: a repetition with the same key gets one of its own for the same upload, until"
    " the bytes are there.",
    tags=["Uploads"],
    security=BEARER,
    status_code=201,
    response_headers=[LOCATION, REPLAYED_HEADER],
    guards=[account_guard],
    responses=raises(
        UnsupportedMediaError,
        PayloadTooLargeError,
        *ONCE_ERRORS,
        QuotaError,
        NotAllowedError,
        NotFoundError,
        body=True,
    ),
)
async def start_direct_upload(
    user: CurrentUser,
    resources: AppResources,
    once: OnceKey,
    data: JSONBody[StartDirectUpload],
) -> Response[DirectUploadView]:
    direct = await service.start_direct(
        _tools(resources),
        _owner(user),
        file_name=data.file_name,
        content_type=data.content_type,
        size_bytes=data.size_bytes,
        claim=await once.claim(),
    )
    once.mark_replay(is_replay=direct.is_replay)
    return Response(direct_view_of(direct), headers={"Location": f"/v1/uploads/{direct.id}"})


@post(
    "/v1/uploads/{upload_id:uuid}/complete",
    operation_id="complete_upload",
    summary="Say that a direct upload has been sent",
    description="Checks what has arrived as if it had been sent through us. What is refused is"
    " deleted, and the upload with it. Repeating it changes nothing." + _WAIT,
    tags=["Uploads"],
    security=BEARER,
    status_code=202,
    response_headers=[LOCATION, *WAIT_HEADERS],
    responses={201: _READY}
    | raises(
        NotFoundError,
        ConflictError,
        UnsupportedMediaError,
        PayloadTooLargeError,
        InvalidInputError,
        QuotaError,
    ),
)
async def complete_upload(
    user: CurrentUser,
    resources: AppResources,
    wait: AskedWait,
    upload_id: FromPath[uuid.UUID],
) -> Response[UploadView]:
    upload = await service.complete_direct(_tools(resources), _owner(user), UploadId(upload_id))
    return await _answer(resources, user, upload.id, wait)


@get(
    "/v1/uploads",
    operation_id="list_uploads",
    summary="My photos, newest first",
    tags=["Uploads"],
    security=BEARER,
    responses=raises(InvalidInputError),
)
async def list_uploads(
    user: CurrentUser,
    resources: AppResources,
    page: AskedPage,
    upload_state: Annotated[UploadState | None, QueryParameter(name="state")] = None,
) -> Page[UploadView]:
    found = await read_page(
        resources.db,
        user.scope,
        page,
        NEWEST_FIRST,
        lambda conn, before, limit: service.list_uploads(
            conn, state=upload_state, before=before, limit=limit
        ),
    )
    urls = await _sign(resources, found.rows)
    return found.show(lambda upload: view_of(upload, urls))


@get(
    "/v1/uploads/{upload_id:uuid}",
    operation_id="get_upload",
    summary="One photo: its state, what was changed, what is wrong",
    tags=["Uploads"],
    description="With `Prefer: wait=n` the answer comes when it is ready or rejected, or after n"
    " seconds.",
    security=BEARER,
    response_headers=WAIT_HEADERS,
    responses=raises(NotFoundError),
)
async def get_upload(
    user: CurrentUser, resources: AppResources, wait: AskedWait, upload_id: FromPath[uuid.UUID]
) -> UploadView:
    upload = await _read_settled(resources, user, upload_id, wait)
    wait.add_headers(is_settled=upload.state.is_settled)
    return view_of(upload, await _sign(resources, [upload]))


@delete(
    "/v1/uploads/{upload_id:uuid}",
    operation_id="delete_upload",
    summary="Forget a photo",
    description="Only while no generation was made from it.",
    tags=["Uploads"],
    security=BEARER,
    responses=raises(NotFoundError, ConflictError),
)
async def delete_upload(
    user: CurrentUser, resources: AppResources, upload_id: FromPath[uuid.UUID]
) -> None:
    await service.delete(resources.db, user.scope, UploadId(upload_id))


def _tools(resources: Resources) -> UploadTools:
    settings = resources.settings
    return UploadTools(
        resources.db,
        resources.storage,
        settings.storage_bucket_uploads,
        limits_of(settings),
        resources.upload_places,
    )


def _owner(user: User) -> Owner:
    return Owner(user.claims.user_id, user.scope)


async def _sign(resources: Resources, uploads: Sequence[Upload]) -> dict[str, str]:
    settings = resources.settings
    return await service.sign_pictures(
        resources.storage,
        settings.storage_bucket_uploads,
        uploads,
        seconds=settings.signed_url_seconds,
    )


async def _read_settled(
    resources: Resources, user: User, upload_id: uuid.UUID, wait: Wait
) -> Upload:
    """The upload once it is ready or rejected, or as it is when the time is over.

    Raises: NotFoundError.
    """
    return await wait.until(
        lambda upload: upload.state.is_settled,
        lambda: service.get(resources.db, user.scope, upload_id),
    )


async def _answer(
    resources: Resources, user: User, upload_id: uuid.UUID, wait: Wait
) -> Response[UploadView]:
    """201 ready, 202 not yet, or the problem it was rejected for. Raises: PhotoRejectedError."""
    upload = await _read_settled(resources, user, upload_id, wait)
    if upload.state is UploadState.REJECTED and upload.problem is not None:
        reason = find_reason(upload.problem.code) or UploadReason.NOT_USABLE
        raise PhotoRejectedError(reason=reason, upload_id=upload.id, figures=upload.problem.figures)
    is_ready = upload.state is UploadState.READY
    urls = await _sign(resources, [upload]) if is_ready else {}
    wait.add_headers(is_settled=is_ready)
    return Response(
        view_of(upload, urls),
        status_code=201 if is_ready else 202,
        headers={"Location": f"/v1/uploads/{upload.id}"},
    )


router = Router(
    "/",
    route_handlers=[
        create_upload,
        start_direct_upload,
        complete_upload,
        list_uploads,
        get_upload,
        delete_upload,
    ],
)
