"""Photos that people send in."""

import datetime as dt
import uuid
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from core.uploads.types import DirectUpload, Upload, UploadState


class UploadProblem(msgspec.Struct, frozen=True):
    """Why a photo was rejected: a stable word, and a sentence for its owner."""

    code: str
    detail: str


class UploadView(msgspec.Struct, frozen=True, kw_only=True):
    """A photo. Width, height and content type are those of the normalised one: upright, sRGB,
    without metadata."""

    id: uuid.UUID
    state: Annotated[
        UploadState,
        Meta(
            description="`pending`: announced, bytes not confirmed. `stored`: being normalised."
            " `ready`: can be spent on. `rejected`: see `problem`. `expired`: never completed."
        ),
    ]
    file_name: Annotated[str | None, Meta(examples=["ring.jpg"])]
    source_format: Annotated[
        str | None, Meta(description="What was sent: jpeg, png, webp, heic or tiff.")
    ]
    size_bytes: Annotated[int | None, Meta(description="Of the file that was sent.")]
    content_type: Annotated[str | None, Meta(examples=["image/jpeg"])]
    width: int | None
    height: int | None
    notes: Annotated[
        list[str],
        Meta(
            description="What normalising changed.",
            examples=[["removed location", "turned upright"]],
        ),
    ]
    problem: Annotated[UploadProblem | None, Meta(description="Why it was rejected.")]
    thumbnail_url: Annotated[
        str | None, Meta(description="Signed, at most 512 pixels a side; ask again for a new one.")
    ]
    photo_url: Annotated[str | None, Meta(description="Signed, the normalised photo.")]
    created_at: dt.datetime
    settled_at: dt.datetime | None


class StartDirectUpload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is about to be sent."""

    file_name: Annotated[str, Meta(min_length=1, max_length=255, examples=["ring.jpg"])]
    content_type: Annotated[
        str,
        Meta(
            max_length=100,
            description="image/jpeg, image/png, image/webp, image/heic, image/heif or image/tiff.",
            examples=["image/jpeg"],
        ),
    ]
    size_bytes: Annotated[
        int, Meta(ge=0, le=2**53, description="At most 25,000,000.", examples=[2_400_000])
    ]


class DirectUploadView(msgspec.Struct, frozen=True):
    """Send the file's bytes to `url` with this method and these headers, then complete."""

    id: uuid.UUID
    url: Annotated[
        str | None,
        Meta(
            description="Signed; takes the bytes once, no other credential. Null in a repeated"
            " answer where the bytes are there."
        ),
    ]
    method: Annotated[str, Meta(examples=["PUT"])]
    headers: Annotated[dict[str, str], Meta(examples=[{"Content-Type": "image/jpeg"}])]
    expires_at: dt.datetime | None
    complete_url: Annotated[
        str, Meta(examples=["/v1/uploads/0192f3a1-b2c3-7d4e-8f90-a1b2c3d4e5f6/complete"])
    ]


def view_of(upload: Upload, urls: Mapping[str, str]) -> UploadView:
    """`urls` are signed URLs by key; one that is missing is shown as null."""
    return UploadView(
        id=upload.id,
        state=upload.state,
        file_name=upload.file_name,
        source_format=upload.source_format,
        size_bytes=upload.size_bytes,
        content_type=upload.content_type,
        width=upload.width,
        height=upload.height,
        notes=[note.in_words("note") for note in upload.notes],
        problem=_problem_of(upload),
        thumbnail_url=urls.get(upload.thumbnail_key or ""),
        photo_url=urls.get(upload.normal_key or ""),
        created_at=upload.created_at,
        settled_at=upload.settled_at,
    )


def _problem_of(upload: Upload) -> UploadProblem | None:
    if upload.problem is None:
        return None
    return UploadProblem(code=upload.problem.code, detail=upload.problem.in_words("reason"))


def direct_view_of(direct: DirectUpload) -> DirectUploadView:
    return DirectUploadView(
        id=direct.id,
        url=direct.url,
        method="PUT",
        headers={"Content-Type": direct.content_type},
        expires_at=direct.expires_at,
        complete_url=f"/v1/uploads/{direct.id}/complete",
    )
