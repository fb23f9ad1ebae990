"""The jobs of all nouns, by name. A new noun is found through core/nouns.py."""

from core.nouns import NOUNS
from core.tasks.jobs import Job
from core.tasks.queues import Queue
from worker.context import WorkerContext

# That a worker has what the jobs of every noun ask for is a test's to say.
JOBS: dict[str, Job[WorkerContext]] = {
    name: job for noun in NOUNS for name, job in noun.jobs.items()
}
assert len(JOBS) == sum(len(noun.jobs) for noun in NOUNS), "two jobs of one name"

# Those that a process serves: one without a job costs no thread.
QUEUES: tuple[Queue, ...] = tuple(
    queue for queue in Queue if any(job.queue is queue for job in JOBS.values())
)
