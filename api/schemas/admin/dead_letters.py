"""Dead letters as admins see them."""

import uuid
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from core.nouns import find_job, queue_of
from core.tasks.dead_letters import DeadLetter
from core.words.say import say


class DeadLetterView(msgspec.Struct, frozen=True):
    """A task that became a dead letter. Its arguments are ids only."""

    id: uuid.UUID
    task_id: Annotated[uuid.UUID, Meta(description="Of the task in the outbox.")]
    queue: Annotated[str, Meta(description="What tasks of this job wait for most.")]
    job: str
    meaning: Annotated[str, Meta(description="What is true of the thing that the task was for.")]
    args: dict[str, Any]
    claims: Annotated[int, Meta(description="Claims since its last recorded outcome.")]
    failures: Annotated[
        dict[str, int],
        Meta(description="By kind: `error` its own, `absent` somebody was away."),
    ]
    error: str
    request_id: str | None
    created_at: datetime
    died_at: datetime
    replayed_at: datetime | None
    replayed_as: Annotated[uuid.UUID | None, Meta(description="The task that it became again.")]


def dead_letter_view(letter: DeadLetter) -> DeadLetterView:
    job = find_job(letter.job)
    return DeadLetterView(
        **msgspec.structs.asdict(letter),
        queue=queue_of(letter.job),
        meaning=say("dead_letter.unknown_job") if job is None else job.when_dead,
    )


class ReplayedTask(msgspec.Struct, frozen=True):
    """The task that was added again."""

    task_id: Annotated[uuid.UUID, Meta(description="Of the task in the outbox.")]
