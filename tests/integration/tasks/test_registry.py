"""Every job of every noun: what it asks of a worker is there, and what it says is whole."""

import inspect
import re
from typing import Any, Protocol, get_type_hints

import pytest

from core.db import Database
from core.settings import Settings
from core.tasks.jobs import Job, Outcome
from core.tasks.queues import Queue
from tests.integration.tasks.conftest import open_context
from worker.registry import JOBS, QUEUES
from worker.slots import slots_of


def tools_of(job: Job[Any]) -> type:
    """The Protocol that the job's first argument is declared to be."""
    first = next(iter(inspect.signature(job.run).parameters))
    found: type = get_type_hints(job.run)[first]
    return found


def members_of(protocol: type) -> set[str]:
    own = {name for cls in protocol.__mro__ if cls is not object for name in vars(cls)}
    return {name for name in own | set(get_type_hints(protocol)) if not name.startswith("_")} - set(
        vars(Protocol)
    )


@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_declared_wholly(name: str) -> None:
    job = JOBS[name]
    assert re.fullmatch(r"[a-z_]+\.[a-z_]+", name)
    assert inspect.iscoroutinefunction(job.run)
    assert get_type_hints(job.run)["return"] == Outcome
    assert getattr(tools_of(job), "_is_protocol", False), "core asks for no worker, but for tools"
    assert members_of(tools_of(job)), "a job that asks for nothing does nothing"
    assert job.when_dead.endswith(".")
    assert isinstance(job.queue, Queue)


# What a job with such a tool waits for; those that do not use it are named.
_WAITS_FOR = {"payments": Queue.STRIPE, "providers": Queue.PROVIDER}
_WAIT_FOR_NONE = {"generation.dispatch"}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_is_in_the_queue_of_what_it_waits_for(name: str) -> None:
    """Else a silent vendor would hold the places of what does not need it."""
    job = JOBS[name]
    expected = {_WAITS_FOR[tool] for tool in members_of(tools_of(job)) & set(_WAITS_FOR)}
    if expected and name not in _WAIT_FOR_NONE:
        assert job.queue in {*expected, Queue.BACKGROUND}


def test_each_queue_has_slots(settings: Settings) -> None:
    assert all(slots_of(settings, queue) >= 1 for queue in Queue)
    assert set(QUEUES) == {job.queue for job in JOBS.values()}
    assert tuple(queue for queue in Queue if queue in QUEUES) == QUEUES


async def test_a_worker_has_what_every_job_asks_for(
    settings: Settings, db_worker: Database
) -> None:
    async with open_context(settings, db_worker) as ctx:
        missing = {
            name: absent
            for name, job in JOBS.items()
            if (absent := {each for each in members_of(tools_of(job)) if not hasattr(ctx, each)})
        }
    assert missing == {}
