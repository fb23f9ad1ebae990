"""A task whose lease is lost."""

from core.errors import DomainError, InJobs


class LeaseLostError(DomainError):
    """Another worker holds this now: stop and write nothing."""

    sqlstate = "JS430"
    in_jobs = InJobs.STOP
