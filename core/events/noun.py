"""What events bring to worker, health, figures and proofs: see core/noun.py."""

from typing import Protocol

from core.db import Database
from core.events import service
from core.noun import Noun
from core.tasks.jobs import DONE, Fence, Job, Outcome
from core.tasks.outbox import Task
from core.tasks.queues import Queue


class EventTools(Protocol):
    """`db` signs in as the worker."""

    @property
    def db(self) -> Database: ...


async def rotate(tools: EventTools, _: Task) -> Outcome:
    """`events.rotate` {}: makes partitions for the months ahead, drops those too old."""
    await tools.db.run(service.rotate)
    return DONE


NOUN = Noun(
    name="events",
    jobs={
        "events.rotate": Job(
            run=rotate,
            queue=Queue.BACKGROUND,
            fence=Fence.STATE,
            when_dead="Events that no month takes go to the default partition until the next day's"
            " run; those over their 90 days stay.",
        ),
    },
)
