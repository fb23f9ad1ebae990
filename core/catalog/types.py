"""An operation: what can be bought for credits, and what it does to the piece."""

from typing import Any, Literal

import msgspec

Lane = Literal["locked", "reimagined"]


class StepLimits(msgspec.Struct, frozen=True):
    """What a step takes and returns, in pixels; the database refuses what passes them.

    `enlarged_by` is the parameter by which it enlarges, `source` where the figures come from.
    """

    source: str
    input_side_min: int | None = None
    input_side_max: int | None = None
    input_pixels_max: int | None = None
    enlarged_by: str | None = None
    output_pixels_max: int | None = None


class Step(msgspec.Struct, frozen=True):
    """One step of an operation: which provider's endpoint, and by which of its adapters.

    Units: `unit_price_usd` is what one of the provider's billable units costs us.
    """

    provider: str
    adapter: str
    endpoint: str
    typical_seconds: float
    defaults: dict[str, Any]
    unit_price_usd: float = 0
    limits: StepLimits | None = None


class Preset(msgspec.Struct, frozen=True):
    """A prepared scene: the words of a prompt under a slug."""

    slug: str
    title: str
    prompt: str


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """The active version of an operation. Units: `cost_credits` whole credits an image.

    `cancel_credits` is what of them is charged when a run is cancelled after its first, second …
    step was delivered.
    """

    slug: str
    version: int
    title: str
    description: str
    lane: Lane
    cost_credits: int
    steps: tuple[Step, ...]
    output_rule: str
    params_schema: dict[str, Any]
    presets: tuple[Preset, ...]
    wait_seconds: int
    batch_wait_seconds: int
    deadline_seconds: int
    uncertain_seconds: int
    cancel_credits: tuple[int, ...] = ()

    @property
    def typical_seconds(self) -> float:
        """How long the models of all steps usually take, together."""
        return sum(step.typical_seconds for step in self.steps)
