"""One accepted request, from the queue to its result."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sandbox.fal.errors import Outcome
from sandbox.fal.faults import FaultKind, Faults
from sandbox.fal.inputs import Input
from sandbox.fal.ledger import PaidCall
from sandbox.fal.models import Endpoint
from sandbox.fal.outages import Ongoing
from sandbox.fal.webhooks import Delivery


class CallStatus(StrEnum):
    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"


class Submission:
    """What a submit request contained, before it is accepted."""

    __slots__ = (
        "account",
        "base_path",
        "base_url",
        "body",
        "endpoint",
        "endpoint_id",
        "files_expire_at",
        "no_retry",
        "start_seconds",
        "webhook_url",
    )

    def __init__(
        self,
        *,
        endpoint: Endpoint,
        endpoint_id: str,
        base_path: str,
        base_url: str,
        account: str,
        body: bytes,
        webhook_url: str | None = None,
        start_seconds: float | None = None,
        no_retry: bool = False,
        files_expire_at: float | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.endpoint_id = endpoint_id
        self.base_path = base_path
        self.base_url = base_url
        self.account = account
        self.body = body
        self.webhook_url = webhook_url
        self.start_seconds = start_seconds
        self.no_retry = no_retry
        self.files_expire_at = files_expire_at


@dataclass(slots=True, eq=False, kw_only=True)
class Call:
    id: str
    gateway_id: str
    submission: Submission
    faults: Faults
    ledger: PaidCall
    ticket: int
    accepted_at: float
    status: CallStatus = CallStatus.IN_QUEUE
    started_at: float | None = None
    finished_at: float | None = None
    attempts: int = 0
    input: Input | None = None
    outcome: Outcome | None = None
    outages: list[Ongoing] = field(default_factory=list)
    start_timer: asyncio.TimerHandle | None = None
    run_timer: asyncio.TimerHandle | None = None
    run_task: asyncio.Task[None] | None = None
    delivery: Delivery | None = None
    webhook_settled: asyncio.Event = field(default_factory=asyncio.Event)
    watchers: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.submission.base_url}/{self.submission.base_path}/requests/{self.id}"

    def urls(self) -> dict[str, str]:
        return {
            "response_url": self.url,
            "status_url": f"{self.url}/status",
            "cancel_url": f"{self.url}/cancel",
        }

    def fault(self, kind: FaultKind) -> Mapping[str, Any] | None:
        return self.faults.get(kind)

    def has(self, kind: FaultKind) -> bool:
        return kind in self.faults

    def stop_timers(self) -> None:
        for timer in (self.start_timer, self.run_timer):
            if timer is not None:
                timer.cancel()
        if self.run_task is not None:
            self.run_task.cancel()

    def heal(self) -> None:
        for ongoing in self.outages:
            ongoing.heal()

    def notify(self) -> None:
        for watcher in self.watchers:
            if not watcher.done():
                watcher.set_result(None)
        self.watchers.clear()
