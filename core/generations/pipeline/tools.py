"""What the pipeline needs of the process it runs in; `worker/context.py` provides it."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from core.changes import ChangePublisher
from core.db import Database
from core.generations.providers.base import ImageProvider
from core.metrics import Counters
from core.pixels.pool import PixelPools
from core.places import Places, Shares
from core.settings import Settings
from core.storage.types import Storage


class PipelineTools(Protocol):
    settings: Settings
    db: Database
    changes: ChangePublisher
    providers: Mapping[str, ImageProvider]
    storage: Storage
    pixels: PixelPools
    counters: Counters
    dispatch_wanted: asyncio.Event
    poll_places: Places
    abandoned_poll_places: Places
    slow_answers: Shares
    """Of results and files, by their owner."""
    slow_cancels: Shares
    """By the provider's account."""

    def start_background(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Starts `work` and returns; its errors are logged, and the shutdown waits for it."""
