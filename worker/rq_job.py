"""What may be found on a queue: the wake-up of one task, and nothing else.

RQ imports and calls whatever a job in Redis names, as its function or as a callback, and fetches
the addresses it names. A writer to Redis could run anything in this process, with all its
secrets. So a job is read as one task id, or dropped with an alarm.
"""

import uuid
import zlib
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

import msgspec
import structlog
from redis import Redis, RedisError
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.utils import decode_redis_hash

from core.tasks.wakeups import RUN_FUNCTION

log = structlog.get_logger()

# All that RQ keeps of a job of ours in its life; a callback, a dependency, a webhook, a repetition
# or a retry is a field more.
_FIELDS: Final = frozenset(
    {"created_at", "data", "description", "ended_at", "enqueued_at", "failure_ttl",
     "last_heartbeat", "origin", "result_ttl", "started_at", "status", "timeout", "worker_name"}
)  # fmt: skip
_DATA_BYTES_MAX: Final = 1_000


class ForeignJob(StrEnum):
    """Why a job is none of ours."""

    FIELD = "field"
    DATA = "data"
    FUNCTION = "function"
    ARGUMENTS = "arguments"
    UNREADABLE = "unreadable"


class _ForeignJobError(Exception):
    def __init__(self, reason: ForeignJob) -> None:
        super().__init__(reason)
        self.reason = reason


class TaskJob(Job):
    """Nothing that can be performed: worker/rq_threads.py hands its task over."""

    task_id: uuid.UUID

    @classmethod
    def fetch(cls, id: str, connection: Redis | None = None, serializer: Any = None) -> "TaskJob":  # noqa: A002  RQ's name
        """Raises: NoSuchJobError, also for a foreign job, which is gone then."""
        assert connection is not None
        try:
            return super().fetch(id, connection=connection, serializer=serializer)  # type: ignore[return-value]  # half typed
        except (NoSuchJobError, RedisError):
            raise
        except Exception as error:  # noqa: BLE001  the edge: whatever was written to Redis
            reason = error.reason if isinstance(error, _ForeignJobError) else ForeignJob.UNREADABLE
            log.error("rq.foreign_job_dropped", job_id=id[:80], reason=reason.value)  # noqa: TRY400  no traceback of theirs
            connection.delete(cls.key_for(id))
            raise NoSuchJobError("a foreign job") from None

    @classmethod
    def fetch_many(
        cls, job_ids: Iterable[str], connection: Redis, serializer: Any = None
    ) -> list[Job | None]:
        return [cls._find(job_id, connection, serializer) for job_id in job_ids]

    @classmethod
    def _find(cls, job_id: str, connection: Redis, serializer: Any) -> Job | None:
        try:
            return cls.fetch(job_id, connection=connection, serializer=serializer)
        except NoSuchJobError:
            return None

    def restore(self, raw_data: dict[bytes | str, Any]) -> None:
        """Raises: _ForeignJobError, NoSuchJobError."""
        fields = decode_redis_hash(raw_data)
        if any(value for name, value in fields.items() if name not in _FIELDS):
            raise _ForeignJobError(ForeignJob.FIELD)
        if "data" in fields:
            self.task_id = _task_id(fields["data"])
        super().restore(raw_data)

    def perform(self) -> str:
        raise NotImplementedError


def _task_id(data: bytes) -> uuid.UUID:
    """Raises: _ForeignJobError."""
    inflating = zlib.decompressobj()
    try:
        plain = inflating.decompress(data, _DATA_BYTES_MAX)
        content = msgspec.json.decode(plain) if inflating.eof else None
    except (zlib.error, msgspec.DecodeError, RecursionError):
        raise _ForeignJobError(ForeignJob.DATA) from None
    if not isinstance(content, list) or len(content) != 4:
        raise _ForeignJobError(ForeignJob.DATA)
    function, instance, arguments, named = content
    if function != RUN_FUNCTION:
        raise _ForeignJobError(ForeignJob.FUNCTION)
    try:
        (argument,) = arguments
        task_id = uuid.UUID(argument)
    except (TypeError, ValueError, AttributeError):
        raise _ForeignJobError(ForeignJob.ARGUMENTS) from None
    if instance is not None or named != {}:
        raise _ForeignJobError(ForeignJob.ARGUMENTS)
    return task_id
