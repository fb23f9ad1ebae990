"""Every noun, one import each: a new noun adds one line."""

from typing import Any

from core.codes.noun import NOUN as CODES
from core.credits.noun import NOUN as CREDITS
from core.events.noun import NOUN as EVENTS
from core.generations.noun import NOUN as GENERATIONS
from core.noun import Noun
from core.payments.noun import NOUN as PAYMENTS
from core.people.noun import NOUN as PEOPLE
from core.proofs import noun_of_proofs
from core.tasks.jobs import Job
from core.tasks.noun import NOUN as TASKS
from core.tasks.queues import Queue
from core.uploads.noun import NOUN as UPLOADS

_listed = tuple(each for each in tuple(globals().values()) if isinstance(each, Noun))
NOUNS: tuple[Noun[Job[Any]], ...] = (*_listed, noun_of_proofs(_listed))


_JOBS = {name: job for noun in NOUNS for name, job in noun.jobs.items()}


def find_job(name: str) -> Job[Any] | None:
    return _JOBS.get(name)


def queue_of(job_name: str) -> Queue:
    """Where the tasks of a job are sent; a job of a later release to `default`, where the workers
    of that release find it."""
    job = find_job(job_name)
    return Queue.DEFAULT if job is None else job.queue
