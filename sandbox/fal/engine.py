"""The queue: which requests wait, which run, and how each ends.

One event loop, timers only, no polling: a waiting or running request costs one timer handle.
Only `IN_PROGRESS` counts against an account's limit; requests above it wait and are never refused.
"""

import asyncio
import logging
import time
import uuid
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any

import msgspec

from sandbox.fal.calls import Call, CallStatus, Submission
from sandbox.fal.config import FalSandboxConfig, Tuning
from sandbox.fal.downloads import Downloader
from sandbox.fal.errors import Outcome, flat_error
from sandbox.fal.faults import FaultKind, FaultPlan, Faults
from sandbox.fal.ledger import Ledger, LedgerState, PaidCall
from sandbox.fal.outages import Asked, Ongoing, Outages, of_request
from sandbox.fal.renderer import Renderer
from sandbox.fal.runner import Runner, crashed
from sandbox.fal.storage import FileStore
from sandbox.fal.webhooks import Delivery, Signer, WebhookSender

# "10 total attempts on 503, 504": fal's own retries behind the queue.
RUN_ATTEMPTS_MAX = 10
RETRIED_STATUSES = frozenset({502, 503, 504})
RETRY_PAUSE_SECONDS = 0.05
REFUSAL_SECONDS = 0.05

logger = logging.getLogger(__name__)


class CancelAnswer(StrEnum):
    OK = "OK"
    CANCELLATION_REQUESTED = "CANCELLATION_REQUESTED"
    ALREADY_COMPLETED = "ALREADY_COMPLETED"


class Engine:
    def __init__(self, config: FalSandboxConfig) -> None:
        self.config = config
        self.tuning = Tuning.from_config(config)
        self.plan = FaultPlan()
        self.outages = Outages()
        self.ledger = Ledger()
        self.files = FileStore()
        self.signer = Signer(config.state_dir)
        self._sender = WebhookSender(
            self.signer,
            timeout_seconds=config.webhook_timeout_seconds,
            transport=config.transport,
            extra_hosts=config.extra_hosts,
        )
        self._downloader = Downloader(
            self.files, transport=config.transport, extra_hosts=config.extra_hosts
        )
        self._renderer = Renderer(config.render_processes, folder=config.picture_dir)
        self._runner = Runner(
            self.files,
            self._downloader,
            self._renderer,
            prerendered_side=config.prerendered_side,
        )
        self._calls: dict[str, Call] = {}
        self._waiting: dict[str, OrderedDict[str, Call]] = defaultdict(OrderedDict)
        self._running: Counter[str] = Counter()
        self._queued_by_endpoint: Counter[str] = Counter()
        self._next_ticket = 0
        self._background: set[asyncio.Task[None]] = set()

    # -- for the routes -----------------------------------------------------------------------

    def submit(self, submission: Submission, faults: Faults) -> Call:
        request_id = str(uuid.uuid4())
        now = time.time()
        self._next_ticket += 1
        call = Call(
            id=request_id,
            gateway_id=request_id,
            submission=submission,
            faults=faults,
            ticket=self._next_ticket,
            accepted_at=now,
            outages=of_request(faults),
            ledger=self.ledger.open(
                PaidCall(
                    request_id=request_id,
                    endpoint=submission.endpoint_id,
                    account=submission.account,
                    webhook_url=submission.webhook_url,
                    accepted_at=now,
                    faults=tuple(faults),
                )
            ),
        )
        self._calls[request_id] = call
        self._waiting[submission.account][request_id] = call
        self._queued_by_endpoint[submission.endpoint_id] += 1
        loop = asyncio.get_running_loop()
        if submission.start_seconds is not None:
            call.start_timer = loop.call_later(
                submission.start_seconds, self._start_timed_out, call
            )
        self._pump(submission.account)
        return call

    def find(self, request_id: str, *, base_path: str, account: str) -> Call | None:
        call = self._calls.get(request_id)
        if call is None or call.submission.base_path != base_path:
            return None
        return call if call.submission.account == account else None

    def find_any(self, request_id: str) -> Call | None:
        return self._calls.get(request_id)

    def outage(self, asked: Asked) -> Ongoing | None:
        """What is wrong with the answer to this request."""
        call = None if asked.request_id is None else self._calls.get(asked.request_id)
        return self.outages.meeting(asked, () if call is None else call.outages)

    def queue_position(self, call: Call) -> int:
        """Requests ahead on the account; counts those cancelled in between as well."""
        head = next(iter(self._waiting[call.submission.account].values()), call)
        return max(0, call.ticket - head.ticket)

    def queue_length(self, endpoint_id: str) -> int:
        return self._queued_by_endpoint[endpoint_id]

    def cancel(self, call: Call) -> CancelAnswer:
        if call.status is CallStatus.COMPLETED:
            return CancelAnswer.ALREADY_COMPLETED
        if call.fault(FaultKind.CANCEL_RACE) is not None:
            return CancelAnswer.CANCELLATION_REQUESTED
        was_running = call.status is CallStatus.IN_PROGRESS
        self._finish(
            call, flat_error("client_cancelled", detail="Request was cancelled"), cancelled=True
        )
        return CancelAnswer.CANCELLATION_REQUESTED if was_running else CancelAnswer.OK

    def retune(self) -> None:
        """After a change of the limits."""
        for account in list(self._waiting):
            self._pump(account)

    def counts(self) -> dict[str, Any]:
        return {
            "queued": {account: len(calls) for account, calls in self._waiting.items() if calls},
            "running": {account: count for account, count in self._running.items() if count},
        }

    def reset(self) -> None:
        """Deletes every request, file, fault and the ledger; keeps the key and the tuning."""
        for call in self._calls.values():
            call.stop_timers()
            call.heal()
            call.notify()
        for task in self._background:
            task.cancel()
        self._calls.clear()
        self._waiting.clear()
        self._running.clear()
        self._queued_by_endpoint.clear()
        self.ledger.clear()
        self.files.clear()
        self.plan.clear()
        self.outages.clear()

    async def aclose(self) -> None:
        self.outages.clear()
        for call in self._calls.values():
            call.stop_timers()
            call.heal()
            call.notify()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._renderer.close()
        await self._sender.aclose()
        await self._downloader.aclose()

    # -- the life of a request ----------------------------------------------------------------

    def _pump(self, account: str) -> None:
        waiting = self._waiting[account]
        limit = self.tuning.limit_of(account)
        while waiting and self._running[account] < limit:
            _, call = waiting.popitem(last=False)
            self._queued_by_endpoint[call.submission.endpoint_id] -= 1
            self._running[account] += 1
            self._start(call)

    def _start(self, call: Call) -> None:
        if call.start_timer is not None:
            call.start_timer.cancel()
        call.status = CallStatus.IN_PROGRESS
        call.started_at = call.ledger.started_at = time.time()
        call.notify()
        lost = call.fault(FaultKind.LOST_REQUEST)
        if lost is not None:
            loop = asyncio.get_running_loop()
            call.run_timer = loop.call_later(lost.get("seconds", 0.5), self._drop_request, call)
        elif call.fault(FaultKind.NEVER_FINISHES) is None:
            self._attempt(call)

    def _attempt(self, call: Call) -> None:
        call.attempts += 1
        loop = asyncio.get_running_loop()
        seconds = self._run_seconds(call)
        refusal = self._runner.refuse(call)
        if refusal is not None:
            call.run_timer = loop.call_later(
                min(seconds, REFUSAL_SECONDS), self._attempt_failed, call, refusal
            )
        elif self.tuning.prerendered:
            call.run_timer = loop.call_later(seconds, self._finish_prerendered, call)
        else:
            call.run_task = loop.create_task(self._render(call, seconds))

    def _run_seconds(self, call: Call) -> float:
        if call.fault(FaultKind.WEBHOOK_REORDERED) is not None:
            return 0.0  # the submit answer waits for it
        delay = call.fault(FaultKind.DELAY_RUN)
        extra = 0.0 if delay is None else float(delay.get("seconds", 5.0))
        return self.tuning.seconds_of(call.submission.endpoint_id) + extra

    def _attempt_failed(self, call: Call, outcome: Outcome) -> None:
        ordered = call.fault(FaultKind.RESULT_ERROR)
        transient = ordered is not None and "failures" in ordered
        if (
            transient
            and outcome.status in RETRIED_STATUSES
            and not call.submission.no_retry
            and call.attempts < RUN_ATTEMPTS_MAX
        ):
            call.gateway_id = str(uuid.uuid4())
            loop = asyncio.get_running_loop()
            call.run_timer = loop.call_later(RETRY_PAUSE_SECONDS, self._attempt, call)
            return
        self._finish(call, outcome)

    def _finish_prerendered(self, call: Call) -> None:
        self._finish(call, self._runner.run_prerendered(call))

    async def _render(self, call: Call, seconds: float) -> None:
        due_at = time.monotonic() + seconds
        try:
            outcome = await self._runner.run(call)
        except Exception:
            logger.exception("the renderer crashed")
            outcome = crashed()
        await asyncio.sleep(due_at - time.monotonic())
        call.run_task = None
        self._finish(call, outcome)

    def _start_timed_out(self, call: Call) -> None:
        if call.status is CallStatus.IN_QUEUE:
            self._finish(call, flat_error("request_timeout", detail="Request timed out", user=True))

    def _release(self, call: Call) -> None:
        """Gives back the slot or the place in the queue."""
        account = call.submission.account
        if call.status is CallStatus.IN_PROGRESS:
            self._running[account] -= 1
        elif self._waiting[account].pop(call.id, None) is not None:
            self._queued_by_endpoint[call.submission.endpoint_id] -= 1
        asyncio.get_running_loop().call_soon(self._pump, account)

    def _drop_request(self, call: Call) -> None:
        """Deletes the request without an end: its status is 404 from here on."""
        lost = call.fault(FaultKind.LOST_REQUEST) or {}
        self._release(call)
        del self._calls[call.id]
        if lost.get("billed"):
            self._bill(call, units=1.0)
        else:
            call.ledger.state = LedgerState.FAILED
        call.ledger.finished_at = time.time()
        call.notify()

    def _bill(self, call: Call, *, units: float) -> None:
        call.ledger.state = LedgerState.BILLED
        call.ledger.billable_units = units
        call.ledger.cost = round(units * call.submission.endpoint.unit_price, 8)

    def _finish(self, call: Call, outcome: Outcome, *, cancelled: bool = False) -> None:
        if call.status is CallStatus.COMPLETED:
            return
        call.stop_timers()
        self._release(call)
        call.status = CallStatus.COMPLETED
        call.outcome = outcome
        call.finished_at = call.ledger.finished_at = time.time()
        call.ledger.result_status = outcome.status
        if outcome.ok:
            self._bill(call, units=outcome.units)
        else:
            call.ledger.state = LedgerState.CANCELLED if cancelled else LedgerState.FAILED
        call.submission.body = b""
        call.notify()
        # Whether fal sends a webhook for a cancelled request is not documented; without one the
        # product has to poll, which is the harder case.
        if call.submission.webhook_url is None or cancelled:
            call.webhook_settled.set()
        else:
            self._spawn(self._send_webhook(call, call.submission.webhook_url, outcome))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _send_webhook(self, call: Call, url: str, outcome: Outcome) -> None:
        try:
            if call.fault(FaultKind.WEBHOOK_NEVER) is not None:
                return
            late = call.fault(FaultKind.WEBHOOK_LATE)
            duplicate = call.fault(FaultKind.WEBHOOK_DUPLICATE)
            call.delivery = Delivery(
                url=url,
                request_id=call.id,
                user_id=f"sandbox-{call.submission.account}",
                body=webhook_body(call, outcome),
                delay_seconds=0.0 if late is None else float(late.get("seconds", 5.0)),
                copies=1 if duplicate is None else int(duplicate.get("count", 2)),
                gap_seconds=0.1 if duplicate is None else float(duplicate.get("gap", 0.1)),
                signed=call.fault(FaultKind.WEBHOOK_UNSIGNED) is None,
                forged=call.fault(FaultKind.WEBHOOK_BAD_SIGNATURE) is not None,
            )
            await self._sender.deliver(call.delivery, self.tuning.webhook_schedule_seconds)
        finally:
            call.webhook_settled.set()


def webhook_body(call: Call, outcome: Outcome) -> bytes:
    body: dict[str, Any] = {
        "request_id": call.id,
        "gateway_request_id": call.gateway_id,
        "status": "OK" if outcome.ok else "ERROR",
        "payload": msgspec.Raw(outcome.body),
    }
    if not outcome.ok:
        body["error"] = f"Invalid status code: {outcome.status}"
    return msgspec.json.encode(body)
