"""What can be bought, and what it would cost."""

import uuid
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from api.schemas.me import BalanceView
from core.catalog.estimates import Estimate
from core.catalog.types import Lane, Operation, StepLimits
from core.words.say import say

COUNT_MAX = 1000


class PresetView(msgspec.Struct, frozen=True):
    """A prepared scene: send its slug as the parameter `preset`."""

    slug: str
    title: str
    prompt: str


class PhotoLimitsView(msgspec.Struct, frozen=True):
    """What the first model takes and, where it enlarges by a parameter, returns. Pixels.

    A generation that would pass them is refused before anything is reserved.
    """

    side_min: int | None
    side_max: int | None
    pixels_max: int | None
    enlarged_by: Annotated[
        str | None, Meta(description="The parameter by which it enlarges.", examples=["factor"])
    ]
    enlarged_pixels_max: Annotated[
        int | None, Meta(description="Width x height x factor² may be so many.")
    ]


class OperationView(msgspec.Struct, frozen=True):
    """One operation of the catalogue, in its present version."""

    slug: Annotated[str, Meta(examples=["packshot"])]
    version: Annotated[int, Meta(description="Rises with each change of price or model.")]
    title: str
    description: str
    lane: Annotated[Lane, Meta(description="What may happen to the piece.")]
    lane_explained: str
    cost_credits: Annotated[int, Meta(description="Whole credits an image.", examples=[1])]
    models: Annotated[
        list[str],
        Meta(description="The provider's models, in order.", examples=[["fal-ai/birefnet/v2"]]),
    ]
    typical_seconds: Annotated[
        float, Meta(description="How long the models usually take, without waiting in line.")
    ]
    wait_seconds: Annotated[
        int,
        Meta(
            description="Its turn has not come after this time: it ends free of charge, untried.",
            examples=[1800],
        ),
    ]
    batch_wait_seconds: Annotated[
        int, Meta(description="The same for work of priority `batch`.", examples=[172800])
    ]
    deadline_seconds: Annotated[
        int,
        Meta(
            description="Not delivered this long after the provider took it: refunded.",
            examples=[900],
        ),
    ]
    params_schema: Annotated[
        dict[str, Any],
        Meta(description="JSON schema (draft 2020-12) of `params` of a generation."),
    ]
    presets: list[PresetView]
    photo_limits: PhotoLimitsView
    cancel_credits: Annotated[
        list[int],
        Meta(
            description="What of the price is charged when a run is cancelled after its first,"
            " second … step was delivered. Before the first it is free.",
            examples=[[4]],
        ),
    ]


class EstimateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What you would like to run. Nothing is reserved."""

    operation: Annotated[
        str,
        Meta(description="Slug from `GET /v1/operations`.", max_length=64, examples=["packshot"]),
    ]
    params: Annotated[
        dict[str, Any] | None,
        Meta(
            description="Checked if given, as a generation's would be.",
            examples=[{"aspect_ratio": "1:1"}],
        ),
    ] = None
    upload_id: Annotated[
        uuid.UUID | None,
        Meta(description="A photo whose state is `ready`: whether it can be done with it."),
    ] = None
    count: Annotated[int, Meta(description="Images.", ge=1, le=COUNT_MAX, examples=[4])] = 1


class EstimateView(msgspec.Struct, frozen=True):
    """What it would cost now, and whether the balance is enough. Units: whole credits."""

    operation: Annotated[str, Meta(examples=["packshot"])]
    version: int
    lane: Lane
    lane_explained: str
    params: Annotated[
        dict[str, Any] | None, Meta(description="The given ones, with defaults filled in.")
    ]
    count: int
    cost_credits: Annotated[int, Meta(description="An image.", examples=[1])]
    total_credits: Annotated[int, Meta(description="All of them.", examples=[4])]
    balance: BalanceView
    is_enough: Annotated[bool, Meta(description="Whether the available credits cover the total.")]
    missing_credits: Annotated[int, Meta(description="What is missing, debt included.")]


def view_of(operation: Operation) -> OperationView:
    return OperationView(
        slug=operation.slug,
        version=operation.version,
        title=operation.title,
        description=operation.description,
        lane=operation.lane,
        lane_explained=say(f"lane.{operation.lane}"),
        cost_credits=operation.cost_credits,
        models=[step.endpoint for step in operation.steps],
        typical_seconds=operation.typical_seconds,
        wait_seconds=operation.wait_seconds,
        batch_wait_seconds=operation.batch_wait_seconds,
        deadline_seconds=operation.deadline_seconds,
        params_schema=operation.params_schema,
        presets=[
            PresetView(preset.slug, preset.title, preset.prompt) for preset in operation.presets
        ],
        photo_limits=_photo_limits_of(operation),
        cancel_credits=list(operation.cancel_credits),
    )


def _photo_limits_of(operation: Operation) -> PhotoLimitsView:
    limits = operation.steps[0].limits or StepLimits(source="")
    return PhotoLimitsView(
        side_min=limits.input_side_min,
        side_max=limits.input_side_max,
        pixels_max=limits.input_pixels_max,
        enlarged_by=limits.enlarged_by,
        enlarged_pixels_max=limits.output_pixels_max,
    )


def estimate_view_of(estimate: Estimate) -> EstimateView:
    operation, account = estimate.operation, estimate.account
    return EstimateView(
        operation=operation.slug,
        version=operation.version,
        lane=operation.lane,
        lane_explained=say(f"lane.{operation.lane}"),
        params=estimate.params,
        count=estimate.count,
        cost_credits=operation.cost_credits,
        total_credits=estimate.total_credits,
        balance=BalanceView(account.available, account.reserved, account.debt),
        is_enough=estimate.is_enough,
        missing_credits=estimate.missing_credits,
    )
