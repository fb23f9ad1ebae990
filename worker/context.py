"""What a job is given: the tools of its process. Built once by worker/process.py."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

import httpx
import structlog

from core.changes import ChangePublisher
from core.db import Database
from core.generations.providers.base import ImageProvider
from core.metrics import Counters
from core.payments.stripe.client import StripeClient
from core.pixels.pool import PixelPools
from core.places import Places, Shares
from core.settings import Settings
from core.storage.types import Storage
from core.tasks.wakeups import TaskQueue

log = structlog.get_logger()

# Polls in flight at the provider: a hundred a second at the usual half second of a tick.
_POLLS_AT_ONCE = 50
_ABANDONED_POLLS_AT_ONCE = 10


class WorkerContext:
    """One per process; jobs and loops share it. It owns the tasks that run in the background."""

    def __init__(
        self,
        *,
        settings: Settings,
        db: Database,
        queue: TaskQueue,
        changes: ChangePublisher,
        http: httpx.AsyncClient,
        providers: Mapping[str, ImageProvider],
        storage: Storage,
        pixels: PixelPools,
        payments: StripeClient | None = None,
    ) -> None:
        self.settings = settings
        self.db = db
        self.queue = queue
        self.changes = changes
        self.http = http
        self.providers = providers
        self.storage = storage
        self.pixels = pixels
        self.payments = payments
        self.counters = Counters()
        self.dispatch_wanted = asyncio.Event()
        self.poll_places = Places(_POLLS_AT_ONCE)
        self.abandoned_poll_places = Places(_ABANDONED_POLLS_AT_ONCE)
        # Of the provider's slots: a quarter for one person's slow results and files, half for
        # everybody's; an eighth for cancels that hang, which nobody waits for.
        slots = settings.worker_slots_provider
        self.slow_answers = Shares(each=max(1, slots // 4), together=max(1, slots // 2))
        cancels = max(1, slots // 8)
        self.slow_cancels = Shares(each=cancels, together=cancels)
        self._background: set[asyncio.Task[None]] = set()

    @property
    def background_count(self) -> int:
        return len(self._background)

    def start_background(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Starts `work` and returns; its errors are logged, and the shutdown waits for it."""
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("work.background_failed", work=task.get_name(), exc_info=error)

    async def wait_for_background(self, *, timeout_seconds: float) -> None:
        if self._background:
            await asyncio.wait(self._background, timeout=timeout_seconds)
