"""What a noun brings to the whole. Each lists it in its own `noun.py`; core/nouns.py lists them.

Whoever adds a noun writes its folder and one line in core/nouns.py: the worker finds its jobs
there, the API its health and figures, and the proof of the whole database its proofs.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from core.settings import Settings

JobT_co = TypeVar("JobT_co", covariant=True)


class Check(msgspec.Struct, frozen=True):
    """One line of /readyz: work is accepted while it is not well, and done later."""

    name: str
    is_well: bool
    facts: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Health:
    """Cheap: it is asked every few seconds by every balancer."""

    query: str
    """One statement, of one row."""
    judge: Callable[[Mapping[str, Any], Settings], Sequence[Check]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noun(Generic[JobT_co]):
    name: str
    jobs: Mapping[str, JobT_co] = dataclasses.field(default_factory=dict)
    """By name, which is wire format."""
    events: frozenset[str] = frozenset()
    """Types that its statements write to app.events; each has a schema in docs/events/."""
    proofs: Sequence[str] = ()
    """Statements of (check_name, table_name, row_id, detail): each row does not follow from the
    others. All nouns' run in one snapshot."""
    health: Health | None = None
    figures: str | None = None
    """A statement of (name, labels, value) for /metrics."""
