"""An operation: what can be bought for credits, and what it does to the piece."""

from typing import Any, Literal

import msgspec

Lane = Literal["locked", "reimagined"]


class Step(msgspec.Struct, frozen=True):
    """One step of an operation: which provider's endpoint, and by which of its adapters."""

    provider: str
    adapter: str
    endpoint: str
    typical_seconds: float
    defaults: dict[str, Any]


class Preset(msgspec.Struct, frozen=True):
    """A prepared scene: the words of a prompt under a slug."""

    slug: str
    title: str
    prompt: str


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """The active version of an operation. Units: `cost_credits` whole credits an image."""

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

    @property
    def typical_seconds(self) -> float:
        """How long the models of all steps usually take, together."""
        return sum(step.typical_seconds for step in self.steps)
