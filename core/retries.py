"""Calls of vendors that are repeated at once, because the failure may have been momentary.

For pauses of seconds inside one request or job only. What takes longer is the next try of a task,
whose pauses stand in the database and survive the process.
"""

import stamina
import structlog
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

log = structlog.get_logger()


def _log_retry(details: RetryDetails) -> None:
    log.warning(
        "call.retried",
        call=details.name,
        retry=details.retry_num,
        error=type(details.caused_by).__name__,
        wait_seconds=round(details.wait_for, 3),
    )


# Instead of the library's own lines, which hold what was raised and passed: a vendor's texts name
# keys, hosts and tokens.
set_on_retry_hooks([_log_retry])


def retrying(
    *, attempts: int, total_seconds: float, first_pause_seconds: float
) -> stamina.AsyncRetryingCaller:
    """`await retrying(…)(which_errors, function, *args)`. Pauses double, with up to as much again
    for each, so that callers that failed together do not come back together.

    No attempt begins once `total_seconds` are over; how long one may take is its own time limit.
    """
    return stamina.AsyncRetryingCaller(
        attempts=attempts,
        timeout=total_seconds,
        wait_initial=first_pause_seconds,
        wait_jitter=first_pause_seconds,
    )
