"""Liveness and readiness."""

from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta


class State(StrEnum):
    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"


class Alive(msgspec.Struct, frozen=True):
    status: Annotated[str, Meta(examples=["ok"])] = "ok"


class Check(msgspec.Struct, frozen=True):
    """One check. `facts` are for people and may change."""

    status: State
    facts: dict[str, Any] = {}


class Warned(msgspec.Struct, frozen=True):
    """What works and is not set up as safely as it could be."""

    name: str
    detail: str


class Readiness(msgspec.Struct, frozen=True):
    """`down`: send no traffic here. `degraded`: requests are served, something needs attention."""

    status: State
    checks: dict[str, Check]
    warnings: list[Warned] = []
