"""What a noun brings to worker, health, figures and proofs: one `Noun` in its own `noun.py`.

A new noun is a folder and one line in core/nouns.py. From there the worker finds its jobs, the
API its health and figures, and `reconcile` its proofs.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from core.settings import Settings

JobT_co = TypeVar("JobT_co", covariant=True)


class Check(msgspec.Struct, frozen=True):
    """One line of /readyz. While it is not well, work is accepted and done later."""

    name: str
    is_well: bool
    facts: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Health:
    """Cheap: every load balancer requests it every few seconds."""

    query: str
    """One statement, of one row."""
    check: Callable[[Mapping[str, Any], Settings], Sequence[Check]]


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
