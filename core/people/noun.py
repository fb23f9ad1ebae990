"""What people bring to worker, health, figures and proofs: see core/noun.py."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.noun import Check, Health, Noun
from core.settings import Settings
from core.tasks.jobs import Job


def _check(row: Mapping[str, Any], _: Settings) -> Sequence[Check]:
    """While as many got free credits in a day as may, new accounts come without."""
    granted, limit = row["granted"], row["limit_per_day"]
    facts = {"granted_last_day": granted, "limit_per_day": limit}
    return [Check("free_credits", granted < limit, facts)]


NOUN: Noun[Job[Any]] = Noun(
    name="people",
    health=Health(
        query="select granted, limit_per_day from app.people_health()",
        check=_check,
    ),
    figures="select name, labels, value from app.people_figures()",
)
