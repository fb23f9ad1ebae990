"""From a call that ended at the provider to a delivered image, or to a refund.

The HTTP code of the result is the truth. Nothing here is decided twice: the generation's end, its
money and the task's end are one statement, `finish_generation`, under the task's lease.
"""

import asyncio
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import structlog

from core import errors
from core.db import Connection
from core.errors import FailureKind, RetryableError
from core.generations import endings as problems
from core.generations.pipeline import queries
from core.generations.pipeline.dispatch import submit_in_background
from core.generations.pipeline.tools import PipelineTools
from core.generations.providers import accounts
from core.generations.providers import types as fal
from core.generations.providers.fal import models as adapters
from core.generations.types import (
    CallEnd,
    CallState,
    Collection,
    GenerationState,
    Problem,
    ResultImage,
    Role,
    Ticket,
)
from core.pixels import outputs
from core.pixels.limits import OUTPUT_BYTES_MAX
from core.tasks import outbox
from core.tasks.outbox import Task

log = structlog.get_logger()

_OPEN_CALLS = frozenset({CallState.ACCEPTED, CallState.ABANDONED})
# A file that is missing this often stays missing: fal's CDN needs seconds, not minutes.
_DOWNLOAD_ATTEMPTS_MAX = 4
_RETRY_DELAY_SECONDS = 2.0
# A provider that is away for longer is looked for at leisure: an image that may be paid for must
# not become a dead letter while its generation has time.
_FETCH_ATTEMPTS_MAX = 5
_THUMBNAIL_EXTENSIONS = {"image/jpeg": "jpg", "image/webp": "webp", "image/png": "png"}


async def collect(tools: PipelineTools, task: Task) -> None:
    """The `provider_call.collect` task: fetch one call's result and act on it."""
    call_id = uuid.UUID(task.args["call_id"])
    found = await tools.db.run(lambda conn: queries.begin_collect(conn, call_id))
    if found.call_state not in _OPEN_CALLS:
        await tools.db.run(lambda conn: outbox.complete(conn, task.lease_token))
        return
    if found.role is Role.CURRENT:
        await tools.changes.publish(found.change)
    started = time.monotonic()
    outcome = await _fetch(tools, found)
    tools.counters.add(
        "jewelshot_provider_results_total",
        account=found.account,
        outcome=type(outcome).__name__.lower(),
    )
    match outcome:
        case fal.Unreachable():
            await accounts.note_unreachable(tools, found.account_id, outcome)
            if tools.settings.provider_polling and task.attempts >= _FETCH_ATTEMPTS_MAX:
                await _look_later(
                    tools, task, call_id, seconds=tools.settings.provider_poll_seconds_max
                )
                return
            raise RetryableError(
                f"result unreachable: {outcome.reason}",
                kind=FailureKind.ABSENT,
                retry_after_seconds=outcome.retry_after_seconds,
            )
        case fal.StillRunning():
            await _look_later(tools, task, call_id, seconds=_RETRY_DELAY_SECONDS)
            return
        case fal.Failure():
            await _fail(tools, task, found, outcome)
        case fal.Output():
            await _deliver(tools, task, found, outcome)
    _observe(tools, found, seconds=time.monotonic() - started)
    tools.dispatch_wanted.set()


async def _look_later(
    tools: PipelineTools, task: Task, call_id: uuid.UUID, *, seconds: float
) -> None:
    """Back to running: the poll loop finds the end, or the deadline comes."""
    change = await tools.db.run(
        lambda conn: queries.resume_running(conn, call_id, task.lease_token, poll_seconds=seconds)
    )
    await tools.changes.publish(change)


async def _fetch(tools: PipelineTools, found: Collection) -> fal.ResultOutcome:
    response_url = found.response_url
    if response_url is None:
        # The webhook overtook the submit's answer, or that was lost: it named the request.
        if found.request_id is None:
            raise RetryableError("neither a result URL nor a request id is known yet")
        response_url = tools.fal.derive_urls(found.endpoint, found.request_id)[1]
    return await tools.fal.result(fingerprint=found.key_fingerprint, response_url=response_url)


def _observe(tools: PipelineTools, found: Collection, *, seconds: float) -> None:
    tools.counters.observe("jewelshot_collect_seconds", seconds)
    tools.counters.observe(
        "jewelshot_provider_call_seconds",
        (datetime.now(UTC) - found.call_created_at).total_seconds(),
        account=found.account,
        endpoint=found.endpoint,
    )


# --- failure -------------------------------------------------------------------------------------


async def _fail(tools: PipelineTools, task: Task, found: Collection, failure: fal.Failure) -> None:
    """The provider's own verdict: another attempt where that is safe, a refund otherwise."""
    end = CallEnd(
        state=CallState.CANCELLED if failure.is_cancelled else CallState.FAILED,
        http_status=failure.http_status,
        error_type=failure.error_type,
        error_detail=failure.detail,
        billable_units=_units(failure.billable_units),
    )
    tools.counters.add(
        "jewelshot_provider_errors_total",
        account=found.account,
        error_type=failure.error_type or str(failure.http_status),
    )
    try_again = failure.is_retryable or (failure.is_cancelled and not found.cancel_requested)

    async def note(conn: Connection) -> None:
        await accounts.note_effect(
            conn,
            found.account_id,
            failure.account_effect,
            settings=tools.settings,
            reason=failure.error_type or str(failure.http_status),
        )

    async def requeue(conn: Connection) -> queries.Change | None:
        return await queries.requeue(
            conn,
            found.call_id,
            task.lease_token,
            end,
            delay_seconds=_RETRY_DELAY_SECONDS * (found.attempts + 1),
            attempts_max=tools.settings.provider_attempts_max,
        )

    # A transaction of its own: it would come to the account with the generation's lock held.
    async def finish(conn: Connection) -> queries.Change | None:
        return await _finish_without_image(conn, task, found, end, _why(found, failure))

    if failure.account_effect != "none":
        await tools.db.run(note)
    if found.role is not Role.CURRENT:
        await tools.db.run(
            lambda conn: queries.close_call(conn, found.call_id, task.lease_token, end)
        )
        return
    change = await tools.db.run(requeue) if try_again else None
    await _announce(tools, found, change or await tools.db.run(finish))


_PROBLEMS: dict[str | None, Problem] = {
    "content_policy_violation": problems.CONTENT_REFUSED,
    "no_media_generated": problems.NO_IMAGE,
}


def _why(found: Collection, failure: fal.Failure) -> Problem:
    if found.cancel_requested:
        return problems.CANCELLED
    if (known := _PROBLEMS.get(failure.error_type)) is not None:
        return known
    if failure.is_refusal:
        return problems.INPUT_REFUSED
    if failure.is_start_timeout:
        return problems.NOT_STARTED_IN_TIME
    if failure.is_cancelled and found.is_given_up:
        return problems.OUT_OF_TIME
    return problems.PROVIDER_FAILED


async def _finish_without_image(
    conn: Connection, task: Task, found: Collection, end: CallEnd, problem: Problem
) -> queries.Change | None:
    outcome = "cancelled" if problem is problems.CANCELLED else "failed"
    return await queries.finish(
        conn,
        found.generation_id,
        task.lease_token,
        outcome,
        call_id=found.call_id,
        end=end,
        problem=problem,
    )


def _units(value: object) -> str | None:
    return None if value is None else str(value)


# --- delivery ------------------------------------------------------------------------------------


async def _deliver(tools: PipelineTools, task: Task, found: Collection, output: fal.Output) -> None:
    """An image is in the provider's hands: verify it, apply the output rule, store, finish."""
    if found.role is Role.RIVAL:
        found = await tools.db.run(
            lambda conn: queries.begin_collect(conn, found.call_id, take_over=True)
        )
    end = CallEnd(
        state=CallState.SUCCEEDED,
        http_status=output.http_status,
        billable_units=_units(output.billable_units),
    )
    is_of_use = found.is_last_step and found.state is not GenerationState.SUCCEEDED
    if found.role is Role.LATE and not is_of_use:
        await tools.db.run(
            lambda conn: queries.close_call(conn, found.call_id, task.lease_token, end)
        )
        return
    try:
        data = await _download(tools, task, found, output)
        if not found.is_last_step:
            await _advance(tools, task, found, end, data)
            return
        result = await _render_and_store(tools, found, data)
    except _OutputRefusedError as refused:
        await _refuse(tools, task, found, end, refused)
        return
    change = await tools.db.run(
        lambda conn: queries.finish(
            conn,
            found.generation_id,
            task.lease_token,
            "succeeded",
            call_id=found.call_id,
            end=end,
            result=result,
        )
    )
    await _announce(tools, found, change)


class _OutputRefusedError(Exception):
    """The provider was paid, but what it made cannot be delivered."""

    def __init__(self, error_type: str, problem: Problem) -> None:
        super().__init__(error_type)
        self.error_type = error_type
        self.problem = problem


async def _refuse(
    tools: PipelineTools, task: Task, found: Collection, end: CallEnd, refused: _OutputRefusedError
) -> None:
    """Failed and refunded; the provider's cost stays on the call."""
    end = CallEnd(
        state=CallState.SUCCEEDED,
        http_status=end.http_status,
        error_type=refused.error_type,
        billable_units=end.billable_units,
    )

    async def work(conn: Connection) -> queries.Change | None:
        if found.role is not Role.CURRENT:
            await queries.close_call(conn, found.call_id, task.lease_token, end)
            return None
        return await _finish_without_image(conn, task, found, end, refused.problem)

    change = await tools.db.run(work)
    await _announce(tools, found, change)


async def _download(
    tools: PipelineTools, task: Task, found: Collection, output: fal.Output
) -> bytes:
    try:
        image = adapters.read_output(found.provider_step, output.payload)
    except adapters.NoImageError as error:
        if error.flagged:
            raise _OutputRefusedError("flagged", problems.OUTPUT_FLAGGED) from error
        raise _OutputRefusedError("no_image", problems.NO_IMAGE) from error
    if image.flagged:
        raise _OutputRefusedError("flagged", problems.OUTPUT_FLAGGED)
    try:
        return await tools.fal.download(image.url, max_bytes=OUTPUT_BYTES_MAX)
    except fal.OutputRefusedError as error:
        raise _OutputRefusedError(error.reason, problems.OUTPUT_BROKEN) from error
    except RetryableError as error:
        if task.attempts < _DOWNLOAD_ATTEMPTS_MAX:
            raise
        raise _OutputRefusedError("output_missing", problems.OUTPUT_BROKEN) from error


async def _advance(
    tools: PipelineTools, task: Task, found: Collection, end: CallEnd, data: bytes
) -> None:
    """Keeps the step's image as the next step's input and hands the slot over."""
    try:
        info = await tools.pixels.run(outputs.verify_output, data)
    except outputs.OutputRuleError as error:
        raise _OutputRefusedError(
            error.reason, problems.output_rule_broken(error.reason, error.detail)
        ) from error
    extension = info.content_type.rpartition("/")[2].replace("jpeg", "jpg")
    key = f"{_folder(found)}/step-{found.step}.{extension}"
    await tools.storage.put(tools.settings.storage_bucket_results, key, data, info.content_type)

    async def work(conn: Connection) -> Ticket | None:
        return await queries.advance(
            conn,
            found.call_id,
            task.lease_token,
            end,
            input_key=key,
            lease_seconds=tools.settings.provider_submit_timeout_seconds + 15,
        )

    ticket = await tools.db.run(work)
    if ticket is not None:
        submit_in_background(tools, ticket, handed_over=True)


def _folder(found: Collection) -> str:
    """One folder a call: a rival's image can never overwrite a delivered one."""
    return f"{found.user_id}/{found.generation_id}/{found.call_id}"


def _rule_params(found: Collection) -> dict[str, Any]:
    """The operation's parameters, and the ordered enlargement of the user's own photo."""
    step = found.provider_step
    if step.adapter != "upscale" or len(found.steps) > 1:
        return found.params
    factor = found.params.get("factor", step.defaults.get("upscale_factor", 2))
    return {**found.params, "upscale_factor": factor}


async def _render_and_store(tools: PipelineTools, found: Collection, data: bytes) -> ResultImage:
    source: bytes | tuple[int, int] = (found.source_width, found.source_height)
    if found.output_rule in outputs.RULES_OF_OWN_PIXELS:
        source = await tools.storage.get(tools.settings.storage_bucket_uploads, found.source_key)
    try:
        rendered = await tools.pixels.run(
            outputs.apply_rule,
            found.output_rule,
            source=source,
            result=data,
            params=_rule_params(found),
        )
    except outputs.OutputRuleError as error:
        raise _OutputRefusedError(
            error.reason, problems.output_rule_broken(error.reason, error.detail)
        ) from error
    bucket = tools.settings.storage_bucket_results
    result = ResultImage(
        storage_key=f"{_folder(found)}/image.{rendered.extension}",
        thumbnail_key=(
            f"{_folder(found)}/thumb.{_THUMBNAIL_EXTENSIONS[rendered.thumbnail_content_type]}"
        ),
        content_type=rendered.content_type,
        width=rendered.width,
        height=rendered.height,
        size_bytes=len(rendered.data),
        pixel_sha256=rendered.pixel_sha256,
        facts=rendered.facts,
    )
    await asyncio.gather(
        tools.storage.put(bucket, result.storage_key, rendered.data, result.content_type),
        tools.storage.put(
            bucket, result.thumbnail_key, rendered.thumbnail, rendered.thumbnail_content_type
        ),
    )
    return result


async def _announce(tools: PipelineTools, found: Collection, change: queries.Change | None) -> None:
    if change is None:
        return
    await tools.changes.publish(change)
    tools.counters.add(
        "jewelshot_generations_finished_total",
        operation=found.operation,
        state="late" if change.get("late") else change["state"],
    )


async def cancel_call(tools: PipelineTools, task: Task) -> None:
    """The `provider_call.cancel` task: ask; money moves on the end that is verified."""
    call_id = uuid.UUID(task.args["call_id"])
    call = await tools.db.run(lambda conn: queries.find_call(conn, call_id))
    if call is None:
        raise errors.PermanentError("no such provider call")
    cancel_url = call["cancel_url"]
    if cancel_url is None and call["request_id"] is not None:
        cancel_url = tools.fal.derive_urls(call["endpoint"], call["request_id"])[2]
    is_asked = cancel_url is not None and CallState(call["state"]) in _OPEN_CALLS
    if is_asked:
        outcome = await tools.fal.cancel(fingerprint=call["key_fingerprint"], cancel_url=cancel_url)
        if isinstance(outcome, fal.Unreachable):
            raise RetryableError(f"cancel unreachable: {outcome.reason}", kind=FailureKind.ABSENT)

    async def work(conn: Connection) -> None:
        # The call before the task, in the order in which the SQL functions lock.
        now = await queries.lock_call(conn, call_id)
        if now is not None and not is_asked and now["request_id"] != call["request_id"]:
            # Whoever recorded it meanwhile found this task and added no other.
            raise RetryableError("the call was accepted meanwhile", retry_after_seconds=0.1)
        await queries.poll_now(conn, call_id)
        if is_asked and not tools.settings.provider_polling:
            # Of a cancelled request no webhook may come.
            await queries.ensure_collect(conn, call_id)
        await outbox.complete(conn, task.lease_token)

    # Without a request id there is nothing to name yet: record_accepted asks again.
    await tools.db.run(work)
