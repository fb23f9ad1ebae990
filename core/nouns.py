"""Every noun, one import each: a new noun adds one line."""

from typing import Any

from core.codes.noun import NOUN as CODES
from core.credits.noun import NOUN as CREDITS
from core.events.noun import NOUN as EVENTS
from core.generations.noun import NOUN as GENERATIONS
from core.noun import Noun
from core.payments.noun import NOUN as PAYMENTS
from core.proofs import noun_of_proofs
from core.tasks.jobs import Job
from core.tasks.noun import NOUN as TASKS
from core.uploads.noun import NOUN as UPLOADS

_listed = tuple(each for each in tuple(globals().values()) if isinstance(each, Noun))
NOUNS: tuple[Noun[Job[Any]], ...] = (*_listed, noun_of_proofs(_listed))


def find_job(name: str) -> Job[Any] | None:
    return next((noun.jobs[name] for noun in NOUNS if name in noun.jobs), None)
