"""The work as admins see it."""

import uuid
from typing import Annotated

import msgspec
from msgspec import Meta


class ReplayedTask(msgspec.Struct, frozen=True):
    """A task that is live again."""

    task_id: Annotated[uuid.UUID, Meta(description="Of the task in the outbox.")]
