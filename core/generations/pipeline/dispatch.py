"""From a waiting generation to one POST at the provider.

A ticket is taken in one transaction (who is served, by which key, under which call id); the POST
is made outside of any; its outcome is recorded in another. A worker that dies in between leaves a
call whose lease expires, which the sweep turns into an ambiguous one.
"""

import asyncio
import random
import time
from datetime import UTC, datetime

import psycopg
import structlog

from core import errors
from core.catalog import params as catalog_params
from core.db import Connection
from core.generations import endings as problems
from core.generations.pipeline import queries
from core.generations.pipeline.tools import PipelineTools
from core.generations.providers import accounts
from core.generations.providers.fal import models as adapters
from core.generations.providers.types import (
    Accepted,
    Ambiguous,
    NotAccepted,
    SubmitOutcome,
    UploadError,
)
from core.generations.types import CallEnd, CallState, Problem, Ticket
from core.tasks import outbox
from core.tasks.outbox import Task

log = structlog.get_logger()

# A wait for the provider's path to heal: doubles with each call of the generation.
_BACKOFF_SECONDS = 1.0
_BACKOFF_SECONDS_MAX = 30.0
# The provider may fetch the photo late in its queue: longer than any deadline of ours.
_INPUT_URL_SECONDS = 86_400
_RECORD_PAUSE_SECONDS = 0.5
_TICKETS_AT_ONCE = 32


async def dispatch_for(tools: PipelineTools, task: Task) -> None:
    """A generation's own ticket: serves the fairest waiting one, which need not be that one."""

    async def work(conn: Connection) -> list[Ticket]:
        await outbox.complete(conn, task.lease_token)
        return await _take(tools, conn, limit=1)

    for ticket in await tools.db.run(work):
        submit_in_background(tools, ticket)


async def dispatch_waiting(tools: PipelineTools) -> int:
    """Fills the free slots; returns how many calls were opened."""
    opened = 0
    while True:
        tickets = await tools.db.run(lambda conn: _take(tools, conn, limit=_TICKETS_AT_ONCE))
        if not tickets:
            return opened
        opened += len(tickets)
        for ticket in tickets:
            submit_in_background(tools, ticket)


def _lease_seconds(tools: PipelineTools) -> float:
    """Covers the POST's own timeouts and the recording of its outcome."""
    return tools.settings.provider_submit_timeout_seconds + 15


async def _take(tools: PipelineTools, conn: Connection, *, limit: int) -> list[Ticket]:
    return await queries.take_tickets(
        conn, list(tools.fal.fingerprints), limit=limit, lease_seconds=_lease_seconds(tools)
    )


def submit_in_background(
    tools: PipelineTools, ticket: Ticket, *, handed_over: bool = False
) -> None:
    tools.start_background(
        submit(tools, ticket, handed_over=handed_over), name=f"submit {ticket.call_id}"
    )


async def submit(tools: PipelineTools, ticket: Ticket, *, handed_over: bool = False) -> None:
    """The one POST of a ticket, and the record of its outcome.

    `handed_over`: the slot came from the step before, so the account was not asked for its health.
    """
    await tools.changes.publish(
        {
            "generation_id": str(ticket.generation_id),
            "user_id": str(ticket.user_id),
            "state": "submitting",
            "version": ticket.version,
        }
    )
    started = time.monotonic()
    outcome: SubmitOutcome
    if handed_over and not ticket.account_is_open:
        outcome = _not_sent("account_unhealthy")
    else:
        try:
            outcome = await _post(tools, ticket)
        except errors.InvalidInputError as error:  # only SQL written by hand gets here
            await _end_without_call(tools, ticket, problems.PARAMS_INVALID, error.reason)
            return
        except errors.NotFoundError:
            await _end_without_call(tools, ticket, problems.PHOTO_MISSING, ticket.input_key)
            return
    tools.counters.observe(
        "jewelshot_provider_submit_seconds", time.monotonic() - started, account=ticket.account
    )
    tools.counters.add(
        "jewelshot_provider_submits_total",
        account=ticket.account,
        outcome=type(outcome).__name__.lower(),
    )
    await _record(tools, ticket, outcome, until=started + _lease_seconds(tools))


async def _post(tools: PipelineTools, ticket: Ticket) -> SubmitOutcome:
    step = ticket.provider_step
    params = catalog_params.check(ticket.params_schema, ticket.params)
    seconds_left = (ticket.give_up_at - datetime.now(UTC)).total_seconds()
    if seconds_left <= 1:
        return _not_sent("out_of_time")
    try:
        image_url = await _input_url(tools, ticket)
    except UploadError as error:
        return _not_sent("provider_storage_unavailable", error)
    except (errors.RetryableError, errors.PermanentError, errors.TemporarilyUnavailableError):
        return _not_sent("storage_unavailable")
    body = adapters.build_body(
        step=step, params=params, presets=ticket.presets, image_url=image_url
    )
    webhook_url = (
        f"{tools.settings.public_base_url}/v1/webhooks/fal/{ticket.call_id}/{ticket.callback_token}"
        if tools.settings.provider_webhooks
        else None
    )
    return await tools.fal.submit(
        fingerprint=ticket.key_fingerprint,
        endpoint=step.endpoint,
        body=body,
        webhook_url=webhook_url,
        start_timeout_seconds=seconds_left,
        tags={"operation": ticket.operation},
    )


async def _input_url(tools: PipelineTools, ticket: Ticket) -> str:
    """Our signed URL; or the provider's own storage, when ours is local and the provider is not."""
    bucket = (
        tools.settings.storage_bucket_uploads
        if ticket.step == 0
        else tools.settings.storage_bucket_results
    )
    if not tools.fal.needs_upload:
        return await tools.storage.sign(bucket, ticket.input_key, _INPUT_URL_SECONDS)
    data = await tools.storage.get(bucket, ticket.input_key)
    extension = ticket.input_key.rpartition(".")[2]
    return await tools.fal.upload(
        data,
        content_type="image/png" if extension == "png" else "image/jpeg",
        file_name=f"input.{extension}",
        fingerprint=ticket.key_fingerprint,
    )


def _not_sent(reason: str, error: UploadError | None = None) -> NotAccepted:
    """No POST was made; `error` may say why the account should pause."""
    return NotAccepted(
        reason=reason,
        http_status=None,
        error_type=reason,
        detail=None if error is None else str(error),
        retry_after_seconds=None if error is None else error.retry_after_seconds,
        account_effect="none" if error is None else error.account_effect,
        is_final=False,
    )


def first_poll_seconds(tools: PipelineTools, typical_seconds: float) -> float:
    """After the model's usual time; half of it when no webhook will tell us."""
    if tools.settings.provider_poll_first_seconds is not None:
        return tools.settings.provider_poll_first_seconds
    return typical_seconds if tools.settings.provider_webhooks else max(1.0, typical_seconds / 2)


async def _record(
    tools: PipelineTools, ticket: Ticket, outcome: SubmitOutcome, *, until: float
) -> None:
    """Insists while the lease lasts: an answer that is not written down may cost a second POST."""
    while True:
        try:
            change = await tools.db.run(lambda conn: _write(tools, conn, ticket, outcome))
        except psycopg.OperationalError as error:  # the database is away, or chose us in a deadlock
            if time.monotonic() >= until:
                raise
            log.warning(
                "provider.outcome_not_recorded",
                call_id=str(ticket.call_id),
                error=type(error).__name__,
            )
            await asyncio.sleep(_RECORD_PAUSE_SECONDS)
        else:
            break
    if isinstance(outcome, NotAccepted):
        tools.dispatch_wanted.set()
    await tools.changes.publish(change)


async def _write(
    tools: PipelineTools, conn: Connection, ticket: Ticket, outcome: SubmitOutcome
) -> queries.Change | None:
    match outcome:
        case Accepted():
            return await queries.record_accepted(
                conn,
                ticket.call_id,
                request_id=outcome.request_id,
                urls=(outcome.status_url, outcome.response_url, outcome.cancel_url),
                poll_seconds=first_poll_seconds(tools, ticket.provider_step.typical_seconds),
            )
        case Ambiguous():
            log.warning(
                "provider.submit_ambiguous", call_id=str(ticket.call_id), error=outcome.error
            )
            return await queries.record_ambiguous(
                conn,
                ticket.call_id,
                outcome.error,
                grace_seconds=tools.settings.provider_ambiguous_grace_seconds,
            )
        case NotAccepted():
            return await _record_not_accepted(tools, conn, ticket, outcome)


async def _record_not_accepted(
    tools: PipelineTools, conn: Connection, ticket: Ticket, outcome: NotAccepted
) -> queries.Change | None:
    end = CallEnd(
        state=CallState.REFUSED,
        http_status=outcome.http_status,
        error_type=outcome.error_type or outcome.reason,
        error_detail=outcome.detail,
    )
    log.info(
        "provider.submit_not_accepted",
        call_id=str(ticket.call_id),
        reason=outcome.reason,
        http_status=outcome.http_status,
    )
    change: queries.Change | None
    if outcome.is_final:
        change = await queries.finish(
            conn,
            ticket.generation_id,
            None,
            "failed",
            call_id=ticket.call_id,
            end=end,
            problem=problems.INPUT_REFUSED,
        )
    else:
        change = await queries.record_not_accepted(
            conn, ticket.call_id, end, delay_seconds=_delay_seconds(ticket, outcome)
        )
    await accounts.note_effect(
        conn,
        ticket.account_id,
        outcome.account_effect,
        settings=tools.settings,
        reason=outcome.reason,
        retry_after_seconds=outcome.retry_after_seconds,
    )
    return change


def _delay_seconds(ticket: Ticket, outcome: NotAccepted) -> float:
    if outcome.account_effect != "none":
        return 0  # the account pauses, not the generation: another account may take it
    doubled = _BACKOFF_SECONDS * 2.0 ** min(ticket.attempt - 1, 10)
    backoff = min(_BACKOFF_SECONDS_MAX, doubled)
    return backoff * random.uniform(0.5, 1)  # noqa: S311  spreads retries, no secret


async def _end_without_call(
    tools: PipelineTools, ticket: Ticket, problem: Problem, detail: str
) -> None:
    """There is nothing that could be sent, now or later."""
    change = await tools.db.run(
        lambda conn: queries.finish(
            conn,
            ticket.generation_id,
            None,
            "failed",
            call_id=ticket.call_id,
            end=CallEnd(state=CallState.REFUSED, error_type=problem.code, error_detail=detail),
            problem=problem,
        )
    )
    await tools.changes.publish(change)
