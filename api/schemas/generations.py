"""Generations as the API shows them."""

import uuid
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from core.generations.endings import Ending, ending_in_words
from core.generations.types import (
    FINISHED_STATES,
    Generation,
    GenerationState,
    LateImage,
    Outlook,
    Priority,
    StateChange,
)
from core.words.say import say

PriorityName = Literal["interactive", "batch"]
LaneName = Literal["locked", "reimagined"]
MoneyName = Literal["reserved", "charged", "charged_in_part", "refunded"]

_PRIORITIES: dict[PriorityName, Priority] = {
    "interactive": Priority.INTERACTIVE,
    "batch": Priority.BATCH,
}
_PRIORITY_NAMES: dict[Priority, PriorityName] = {value: name for name, value in _PRIORITIES.items()}


class CreateGeneration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One run of one operation on one photo. Variants are several generations."""

    operation: Annotated[
        str,
        Meta(description="Slug from `GET /v1/operations`.", max_length=64, examples=["packshot"]),
    ]
    upload_id: Annotated[uuid.UUID, Meta(description="A photo whose state is `ready`.")]
    params: Annotated[
        dict[str, Any],
        Meta(
            description="As the operation's `params_schema` says; defaults are filled in.",
            examples=[{"aspect_ratio": "1:1", "shadow": "soft"}],
        ),
    ] = {}
    priority: Annotated[
        PriorityName, Meta(description="`batch` waits behind all `interactive` work.")
    ] = "interactive"

    @property
    def queue_priority(self) -> Priority:
        return _PRIORITIES[self.priority]


class ImageView(msgspec.Struct, frozen=True):
    """The delivered image. Fetch a signed URL from `result_url`."""

    result_url: str
    content_type: str
    width: Annotated[int, Meta(description="Pixels.")]
    height: Annotated[int, Meta(description="Pixels.")]
    size_bytes: int
    pixel_sha256: Annotated[str, Meta(description="Over the decoded pixels.")]
    facts: Annotated[
        dict[str, Any], Meta(description="What was done to the piece, measured on the image.")
    ]


class ProblemView(msgspec.Struct, frozen=True):
    """Why there is no image: a stable code, and a sentence with what to do."""

    code: Ending
    detail: str


class StateAt(msgspec.Struct, frozen=True):
    state: GenerationState
    at: datetime


class LateImageView(msgspec.Struct, frozen=True):
    """An image that came after the refund. `POST …/late-image` buys it until it expires."""

    expires_at: datetime
    width: int
    height: int
    bought_as: uuid.UUID | None


class GenerationView(msgspec.Struct, frozen=True):
    """One paid run of one operation."""

    id: uuid.UUID
    operation: str
    lane: Annotated[LaneName, Meta(description="What may happen to the piece.")]
    lane_in_words: str
    state: GenerationState
    version: Annotated[int, Meta(description="Rises with each change.")]
    cost_credits: Annotated[int, Meta(description="Whole credits.", examples=[1])]
    money: Annotated[
        MoneyName,
        Meta(
            description="What has become of the credits. `charged_in_part`: cancelled after a step"
            " was done; see `charged_credits`."
        ),
    ]
    upload_id: uuid.UUID
    params: dict[str, Any]
    priority: PriorityName
    created_at: datetime
    wait_until: Annotated[
        datetime | None,
        Meta(
            description="If its turn has not come by then it ends free of charge, untried. `null`"
            " once it has begun."
        ),
    ]
    deadline_at: Annotated[
        datetime | None,
        Meta(
            description="By then it has ended: with an image, or with a refund. The time of the"
            " work counts from when the provider took it: until then this is the latest there"
            " can be, afterwards it is earlier. `null` while its batch is held."
        ),
    ]
    place_in_line: Annotated[
        int | None,
        Meta(
            description="About how many turns until its own, that one included: its place among"
            " your own, times the people who wait, because people take turns. `null` when it does"
            " not wait for a turn.",
            examples=[3],
        ),
    ]
    expected_at: Annotated[
        datetime | None,
        Meta(
            description="About when it will have ended, at the line's present pace and by how"
            " long the last runs took. No promise: that is `deadline_at`. `null` when it has"
            " ended, and while nobody is served."
        ),
    ]
    finished_at: datetime | None
    is_cancel_requested: bool
    retry_of: uuid.UUID | None
    image: ImageView | None
    problem: Annotated[ProblemView | None, Meta(description="Why there is no image.")]
    timeline: Annotated[
        list[StateAt] | None, Meta(description="Only on the single generation.")
    ] = None
    late_image: Annotated[
        LateImageView | None, Meta(description="Only on the single generation.")
    ] = None
    charged_credits: Annotated[
        int | None, Meta(description="What was charged in the end; null while it runs.")
    ] = None
    cancel_credits: Annotated[
        int,
        Meta(
            description="What cancelling now would cost: 0 until a step is delivered, then what"
            " the operation's `cancel_credits` say."
        ),
    ] = 0


class GenerationEvent(msgspec.Struct, frozen=True):
    """One server-sent event."""

    id: Annotated[str, Meta(description="The generation's `version`.", examples=["4"])]
    event: Literal["generation"]
    data: Annotated[
        str,
        Meta(
            description="The generation as JSON, as `GET /v1/generations/{id}` shows it.",
            extra_json_schema={"contentMediaType": "application/json"},
        ),
    ]


class SignedImage(msgspec.Struct, frozen=True):
    """A URL that anybody can open until it expires."""

    url: str
    expires_at: datetime
    content_type: str
    file_name: str


def view_of(
    generation: Generation,
    *,
    timeline: list[StateChange] | None = None,
    late_image: LateImage | None = None,
) -> GenerationView:
    outlook = generation.outlook or Outlook()
    return GenerationView(
        id=generation.id,
        operation=generation.operation,
        lane="locked" if generation.lane == "locked" else "reimagined",
        lane_in_words=say(f"lane.{generation.lane}"),
        state=generation.state,
        version=generation.version,
        cost_credits=generation.cost_credits,
        money=_money(generation),
        upload_id=generation.upload_id,
        params=generation.params,
        priority=_PRIORITY_NAMES[generation.priority],
        created_at=generation.created_at,
        wait_until=generation.wait_until,
        deadline_at=generation.deadline_at,
        place_in_line=outlook.place_in_line,
        expected_at=outlook.expected_at,
        finished_at=generation.finished_at,
        is_cancel_requested=generation.cancel_requested_at is not None,
        retry_of=generation.retry_of,
        image=_image_of(generation),
        problem=_problem_of(generation),
        timeline=[StateAt(change.state, change.at) for change in timeline] if timeline else None,
        late_image=_late_view(late_image),
        charged_credits=generation.charged_credits,
        cancel_credits=generation.cancel_credits,
    )


def _problem_of(generation: Generation) -> ProblemView | None:
    ending = generation.ending
    if ending is None:
        return None
    charged = generation.charged_credits
    return ProblemView(ending, ending_in_words(ending, charged_credits=charged))


def _money(generation: Generation) -> MoneyName:
    if generation.state is GenerationState.SUCCEEDED:
        return "charged"
    if generation.state not in FINISHED_STATES:
        return "reserved"
    return "charged_in_part" if generation.charged_credits else "refunded"


def _image_of(generation: Generation) -> ImageView | None:
    result = generation.result
    if result is None:
        return None
    return ImageView(
        result_url=f"/v1/generations/{generation.id}/result",
        content_type=result.content_type,
        width=result.width,
        height=result.height,
        size_bytes=result.size_bytes,
        pixel_sha256=result.pixel_sha256,
        facts=result.facts,
    )


def _late_view(late_image: LateImage | None) -> LateImageView | None:
    if late_image is None:
        return None
    return LateImageView(
        expires_at=late_image.expires_at,
        width=late_image.width,
        height=late_image.height,
        bought_as=late_image.bought_as,
    )
