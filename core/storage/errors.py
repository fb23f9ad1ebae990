"""What the object store refuses, and its absence."""

from core.errors import InJobs, Reason, TemporarilyUnavailableError


class StorageReason(Reason):
    OBJECT_EXISTS = "object_exists"


class StorageUnavailableError(TemporarilyUnavailableError):
    """The store does not answer, or answers nonsense: a request says 503, a job tries again."""

    in_jobs = InJobs.BACKOFF

    what: str = "storage"
