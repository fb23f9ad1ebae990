"""The jobs of all nouns, by name. A new noun is found through core/nouns.py."""

from core.nouns import NOUNS
from core.tasks.jobs import Job
from worker.context import WorkerContext

# That a worker has what the jobs of every noun ask for is a test's to say.
JOBS: dict[str, Job[WorkerContext]] = {
    name: job for noun in NOUNS for name, job in noun.jobs.items()
}
assert len(JOBS) == sum(len(noun.jobs) for noun in NOUNS), "two jobs of one name"
