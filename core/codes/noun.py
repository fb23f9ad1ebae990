"""What codes bring to worker, health, figures and proofs: see core/noun.py."""

from typing import Any

from core.noun import Noun
from core.tasks.jobs import Job

NOUN: Noun[Job[Any]] = Noun(
    name="codes",
    proofs=("select * from app.prove_codes()",),
    events=frozenset({"code.redeemed"}),
)
