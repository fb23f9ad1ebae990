"""What the object store refuses, and that it is unavailable."""

from core.errors import InJobs, Reason, TemporarilyUnavailableError


class StorageReason(Reason):
    OBJECT_EXISTS = "object_exists"


class StorageUnavailableError(TemporarilyUnavailableError):
    """The store gives no usable answer: a request is answered 503, a job is tried again."""

    in_jobs = InJobs.BACKOFF

    what: str = "storage"
