"""Fetching an output within its owner's share: slow files of one person delay nobody else's."""

import asyncio

from core.errors import FailureKind, RetryableError
from core.generations.pipeline.tools import PipelineTools
from core.generations.pipeline.types import CallResult
from core.pixels.limits import OUTPUT_BYTES_MAX

# Most files are there by then. Those that are not hold one of their owner's few places for such.
_QUICK_SECONDS = 1.0
_TURN_PAUSE_SECONDS = 5.0


class OverShareError(RetryableError):
    """Its owner has other slow files under way. It says nothing about this one."""


async def download(tools: PipelineTools, call: CallResult, url: str) -> bytes:
    """The bytes of the call's output.

    Raises: OverShareError; and what the provider's `download` raises.
    """
    provider = tools.providers[call.provider]
    fetching = asyncio.ensure_future(provider.download(url, max_bytes=OUTPUT_BYTES_MAX))
    try:
        await asyncio.wait({fetching}, timeout=_QUICK_SECONDS)
        if fetching.done():
            return fetching.result()
        if not tools.slow_downloads.is_free(call.user_id):
            raise OverShareError(
                "output download: its owner's others are slow",
                kind=FailureKind.ABSENT,
                retry_after_seconds=_TURN_PAUSE_SECONDS,
            )
        with tools.slow_downloads.hold(call.user_id):
            return await fetching
    finally:
        if not fetching.done():
            fetching.cancel()
            await asyncio.wait({fetching})
