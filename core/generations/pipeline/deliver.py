"""From a provider's output to a delivered image: check it, apply the output rule, store it."""

import asyncio
from typing import Any

import msgspec

from core.changes import Change
from core.db import Connection
from core.errors import RetryableError
from core.generations.endings import Ending, ending_of_output
from core.generations.pipeline import queries
from core.generations.pipeline.dispatch import lease_seconds, submit_in_background
from core.generations.pipeline.fail import announce, units_of
from core.generations.pipeline.tools import PipelineTools
from core.generations.pipeline.types import CallEnd, CallResult, Role
from core.generations.providers.types import Output, OutputMissingError, OutputRefusedError
from core.generations.types import CallState, GenerationState, ResultImage
from core.pixels import remote
from core.pixels.faults import OutputFault
from core.pixels.limits import OUTPUT_BYTES_MAX
from core.pixels.types import RULES_OF_OWN_PIXELS, OutputRuleError
from core.places import OverShareError, within_share
from core.tasks.outbox import Task

# A file that is missing or broken this often in a row stays so; the pauses between double from two
# seconds to half a minute: a minute for a missing one, a quarter for what cannot be decoded.
_MISSING_MAX = 6
_BROKEN_MAX = 4
# What a truncated file, or the page of a gatekeeper in its place, looks like.
_MAYBE_ANOTHER_FILE = frozenset(
    {OutputFault.EMPTY_OUTPUT, OutputFault.WRONG_TYPE, OutputFault.UNDECODABLE}
)


class NotThereYet(Exception):  # noqa: N818  it is no error: the image is paid for and will come
    """The image cannot be had now. `after_seconds`: when to look again; None: as time allows."""

    def __init__(self, reason: str, after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.after_seconds = after_seconds


class _UndeliverableError(Exception):
    """The provider was paid, but what it made cannot be delivered."""

    def __init__(
        self,
        error_type: str,
        ending: Ending,
        detail: str | None = None,
        *,
        looks_max: int = 1,
    ) -> None:
        super().__init__(error_type)
        self.error_type = error_type
        self.ending = ending
        self.detail = detail
        # How often in a row it is seen before it is believed.
        self.looks_max = looks_max


async def deliver(tools: PipelineTools, task: Task, call: CallResult, output: Output) -> None:
    """Delivers the provider's image, or passes it on to the next step.

    Raises: NotThereYet.
    """
    if call.role is Role.SUPERSEDED:
        call_id = call.call_id
        call = await tools.db.run(lambda conn: queries.begin_collect(conn, call_id, take_over=True))
    end = CallEnd(
        state=CallState.SUCCEEDED,
        http_status=output.http_status,
        billable_units=units_of(output.billable_units),
    )
    is_of_use = call.is_last_step and call.state is not GenerationState.SUCCEEDED
    if call.role is Role.LATE and not is_of_use:
        await tools.db.run(
            lambda conn: queries.close_call(conn, call.call_id, task.lease_token, end)
        )
        return
    try:
        data = await _download(tools, call, output)
        if not call.is_last_step:
            await _advance(tools, task, call, end, data)
            return
        result = await _render_and_store(tools, call, data)
    except _UndeliverableError as error:
        await _look_twice(tools, call, error)
        await _end_undeliverable(tools, task, call, end, error)
        return
    change = await tools.db.run(
        lambda conn: queries.deliver(
            conn, call.generation_id, task.lease_token, result, call_id=call.call_id, end=end
        )
    )
    await announce(tools, change, operation=call.operation)


async def _look_twice(tools: PipelineTools, call: CallResult, error: _UndeliverableError) -> None:
    """Raises: NotThereYet while the file may be another one at the next look."""
    if error.looks_max == 1:
        return
    looks = await tools.db.run(lambda conn: queries.count_broken(conn, call.call_id))
    if looks < error.looks_max:
        raise NotThereYet(error.error_type, min(30.0, 2.0**looks)) from error


async def _end_undeliverable(
    tools: PipelineTools, task: Task, call: CallResult, end: CallEnd, error: _UndeliverableError
) -> None:
    """Failed and refunded; the provider's cost stays on the call."""
    end = msgspec.structs.replace(end, error_type=error.error_type, error_detail=error.detail)

    async def work(conn: Connection) -> Change | None:
        if call.role is not Role.CURRENT:
            await queries.close_call(conn, call.call_id, task.lease_token, end)
            return None
        return await queries.end_without_image(
            conn,
            call.generation_id,
            task.lease_token,
            error.ending,
            call_id=call.call_id,
            end=end,
        )

    await announce(tools, await tools.db.run(work), operation=call.operation)


async def _download(tools: PipelineTools, call: CallResult, output: Output) -> bytes:
    if output.is_flagged:
        raise _UndeliverableError("flagged", Ending.OUTPUT_FLAGGED)
    if output.image is None:
        raise _UndeliverableError("no_image", Ending.NO_IMAGE)
    try:
        fetching = tools.providers[call.provider].download(
            output.image.url, max_bytes=OUTPUT_BYTES_MAX
        )
        return await within_share(tools.slow_answers, call.user_id, fetching)
    except OverShareError:
        raise
    except OutputRefusedError as error:
        raise _UndeliverableError(error.reason, Ending.OUTPUT_BROKEN) from error
    except OutputMissingError as error:
        raise _UndeliverableError(
            error.loss, Ending.OUTPUT_BROKEN, looks_max=_MISSING_MAX
        ) from error
    except RetryableError as error:
        raise NotThereYet(str(error)) from error


# --- the next step -------------------------------------------------------------------------------


async def _advance(
    tools: PipelineTools, task: Task, call: CallResult, end: CallEnd, data: bytes
) -> None:
    """Stores the image of this step as the input of the next one, which keeps the slot."""
    try:
        info = await remote.verify_output(tools.pixels.deliveries, data, whom=call.user_id)
    except OutputRuleError as error:
        raise _rule_broken(error) from error
    key = f"{_folder(call)}/step-{call.step}.{info.format.extension}"
    bucket = tools.settings.storage_bucket_results
    await tools.storage.put(bucket, key, data, info.format.content_type)
    intent = await tools.db.run(
        lambda conn: queries.advance(
            conn,
            call.call_id,
            task.lease_token,
            end,
            input_key=key,
            lease_seconds=lease_seconds(tools.settings),
        )
    )
    if intent is not None:
        submit_in_background(tools, intent, handed_over=True)


# --- the image -----------------------------------------------------------------------------------


async def _render_and_store(tools: PipelineTools, call: CallResult, data: bytes) -> ResultImage:
    source: bytes | tuple[int, int] = (call.source_width, call.source_height)
    if call.output_rule in RULES_OF_OWN_PIXELS:
        source = await tools.storage.get(tools.settings.storage_bucket_uploads, call.source_key)
    try:
        rendered = await remote.apply_rule(
            tools.pixels.deliveries,
            call.output_rule,
            source=source,
            result=data,
            params=_rule_params(call),
            whom=call.user_id,
        )
    except OutputRuleError as error:
        raise _rule_broken(error) from error
    bucket = tools.settings.storage_bucket_results
    result = ResultImage(
        storage_key=f"{_folder(call)}/image.{rendered.format.extension}",
        thumbnail_key=(f"{_folder(call)}/thumb.{rendered.thumbnail_format.extension}"),
        content_type=rendered.format.content_type,
        width=rendered.width,
        height=rendered.height,
        size_bytes=len(rendered.data),
        pixel_sha256=rendered.pixel_sha256,
        facts=rendered.facts,
    )
    await asyncio.gather(
        tools.storage.put(bucket, result.storage_key, rendered.data, result.content_type),
        tools.storage.put(
            bucket, result.thumbnail_key, rendered.thumbnail, rendered.thumbnail_format.content_type
        ),
    )
    return result


def _rule_params(call: CallResult) -> dict[str, Any]:
    """The operation's parameters, and the ordered enlargement of the user's own photo."""
    step = call.provider_step
    if step.adapter != "upscale" or len(call.steps) > 1:
        return call.params
    factor = call.params.get("factor", step.defaults.get("upscale_factor", 2))
    return {**call.params, "upscale_factor": factor}


def _rule_broken(error: OutputRuleError) -> _UndeliverableError:
    return _UndeliverableError(
        error.reason,
        ending_of_output(error.reason),
        error.detail,
        looks_max=_BROKEN_MAX if error.reason in _MAYBE_ANOTHER_FILE else 1,
    )


def _folder(call: CallResult) -> str:
    """One folder a call: the image of a superseded call can never overwrite a delivered one."""
    return f"{call.user_id}/{call.generation_id}/{call.call_id}"
