"""Deliveries of events: signature, order, retries, and what goes wrong on purpose."""

import asyncio
import hashlib
import hmac
import random
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from sandbox.kit.guard import SandboxRefusedError, require_loopback
from sandbox.kit.tls import tls_context
from sandbox.stripe.config import API_VERSION, StripeSandboxConfig, Tuning
from sandbox.stripe.faults import FaultKind, FaultPlan, Faults
from sandbox.stripe.store import PRIVATE, Obj, Store

DELIVERY = "sandbox.delivery"  # kind in the store; id is "<event>:<endpoint>"
_CONFIGURED = "we_configured_"


def signature_header(body: bytes, secrets: Sequence[str], timestamp: int) -> str:
    """https://docs.stripe.com/webhooks#verify-manually: one v1 for each active secret."""
    message = b"%d." % timestamp + body
    signed = [hmac.new(secret.encode(), message, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={timestamp}", *(f"v1={value}" for value in signed)])


def event_body(event: Obj, api_version: str | None = None) -> bytes:
    """Indented, as Stripe sends it: a receiver that verifies a re-serialised body must fail."""
    body = event if api_version is None else {**event, "api_version": api_version}
    return msgspec.json.format(msgspec.json.encode(body), indent=2)


class Webhooks:
    def __init__(
        self, store: Store, plan: FaultPlan, tuning: Tuning, config: StripeSandboxConfig
    ) -> None:
        self._store = store
        self._plan = plan
        self._tuning = tuning
        self._config = config
        self._rng = random.Random(config.seed)  # noqa: S311  repeatable tests, not secrets
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: list[Obj] = []
        self._reordered: list[asyncio.Event] = []
        self._client = httpx.AsyncClient(
            timeout=config.webhook_timeout_seconds,
            transport=config.transport,
            verify=tls_context(),
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=32),
        )
        self.configure()

    def configure(self) -> None:
        """The endpoints of the configuration replace those of an earlier one."""
        for old in self._store.all("webhook_endpoint"):
            if old["id"].startswith(_CONFIGURED):
                self._store.remove("webhook_endpoint", old["id"])
        for number, endpoint in enumerate(self._config.endpoints, 1):
            self._store.save(
                {
                    "id": f"{_CONFIGURED}{number}",
                    "object": "webhook_endpoint",
                    "api_version": API_VERSION,
                    "application": None,
                    "created": int(time.time()),
                    "description": None,
                    "enabled_events": list(endpoint.enabled_events),
                    "livemode": False,
                    "metadata": {},
                    "status": "enabled",
                    "url": endpoint.url,
                    PRIVATE: {
                        "secrets": [
                            {"secret": secret, "expires_at": None} for secret in endpoint.secrets
                        ]
                    },
                }
            )

    def is_allowed(self, url: str) -> bool:
        host = urlsplit(url).hostname or ""
        if host in self._config.extra_hosts:
            return True
        try:
            require_loopback(host)
        except SandboxRefusedError:
            return False
        return True

    # -- sending ------------------------------------------------------------------------------

    def send(self, event: Obj) -> None:
        """Sends it to every endpoint that subscribes to its type, in the background."""
        for endpoint in self._store.all("webhook_endpoint"):
            if endpoint["status"] != "enabled" or not _subscribes(endpoint, event["type"]):
                continue
            event["pending_webhooks"] += 1
            delivery = self._store.save(
                {
                    "id": f"{event['id']}:{endpoint['id']}",
                    "event": event["id"],
                    "endpoint": endpoint["id"],
                    "type": event["type"],
                    "state": "pending",
                    "attempts": [],
                },
                DELIVERY,
            )
            if self._tuning.webhooks_held:
                self._hold(delivery)
            else:
                self._start(delivery)

    def resume(self) -> None:
        """After a restart: sends what had not been delivered."""
        for delivery in self._store.all(DELIVERY):
            if delivery["state"] in {"pending", "held"}:
                self._start(delivery)

    def deliveries(self, event_id: str) -> list[Obj]:
        return self._store.where(DELIVERY, "event", event_id)

    def _hold(self, delivery: Obj) -> None:
        delivery["state"] = "held"
        self._held.append(delivery)

    def _start(self, delivery: Obj) -> None:
        task = asyncio.get_running_loop().create_task(self._deliver(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, delivery: Obj) -> None:
        event, endpoint = self._find_event_and_endpoint(delivery)
        if event is None or endpoint is None:
            return
        faults = self._plan.of_delivery(
            event["type"], endpoint["id"], msgspec.json.encode(event["data"])
        )
        if FaultKind.WEBHOOK_DROP in faults:
            self._settle(delivery, "dropped")
            return
        if self._tuning.webhook_jitter_seconds:
            await asyncio.sleep(self._rng.uniform(0, self._tuning.webhook_jitter_seconds))
        if FaultKind.WEBHOOK_DELAY in faults:
            await asyncio.sleep(float(faults[FaultKind.WEBHOOK_DELAY].get("seconds", 5.0)))
        if FaultKind.WEBHOOK_REORDER in faults:
            await self._await_next(faults[FaultKind.WEBHOOK_REORDER])
        twice = faults.get(FaultKind.WEBHOOK_DUPLICATE)
        await self._until_accepted(delivery, faults)
        for _ in range(int(twice.get("count", 2)) - 1 if twice is not None else 0):
            assert twice is not None
            await asyncio.sleep(float(twice.get("gap", 0.0)))
            await self.attempt(delivery, faults)
        self._release_reordered()

    async def _await_next(self, args: Any) -> None:
        """Waits until another delivery has overtaken this one."""
        overtaken = asyncio.Event()
        self._reordered.append(overtaken)
        try:
            await asyncio.wait_for(overtaken.wait(), float(args.get("seconds", 5.0)))
        except TimeoutError:
            self._reordered.remove(overtaken)

    def _release_reordered(self) -> None:
        for waiting in self._reordered:
            waiting.set()
        self._reordered.clear()

    async def _until_accepted(self, delivery: Obj, faults: Faults) -> None:
        schedule = self._tuning.webhook_schedule_seconds
        for pause in schedule[len(delivery["attempts"]) :]:
            if pause:
                await asyncio.sleep(pause)
            if await self.attempt(delivery, faults):
                return
        self._settle(delivery, "failed")

    async def attempt(self, delivery: Obj, faults: Faults | None = None) -> bool:
        """One POST. True if it was answered 2xx."""
        event, endpoint = self._find_event_and_endpoint(delivery)
        if event is None or endpoint is None:
            return False
        record: Obj = {"at": time.time()}
        delivery["attempts"].append(record)
        if self.is_allowed(endpoint["url"]):
            await self._post(event, endpoint, faults or {}, record)
        else:
            record["error"] = "host not allowed"
        accepted = bool(200 <= record.get("status", 0) < 300)
        if accepted and delivery["state"] != "delivered":
            event["pending_webhooks"] -= 1
            self._store.save(event)
            self._settle(delivery, "delivered")
        else:
            self._settle(delivery, delivery["state"])
        return accepted

    async def _post(self, event: Obj, endpoint: Obj, faults: Faults, record: Obj) -> None:
        shown = {**event, "livemode": FaultKind.WEBHOOK_LIVEMODE in faults}
        body = event_body(shown, endpoint["api_version"])
        headers = {
            "content-type": "application/json; charset=utf-8",
            "user-agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        }
        if FaultKind.WEBHOOK_UNSIGNED not in faults:
            headers["stripe-signature"] = self._sign(endpoint, body, faults)
        try:
            answer = await self._client.post(endpoint["url"], content=body, headers=headers)
        except httpx.HTTPError as error:
            record["error"] = type(error).__name__
        else:
            record["status"] = answer.status_code

    def _sign(self, endpoint: Obj, body: bytes, faults: Faults) -> str:
        # The real time, also where the clock was advanced: the receiver has its own.
        now = int(time.time())
        if FaultKind.WEBHOOK_STALE in faults:
            now -= int(faults[FaultKind.WEBHOOK_STALE].get("seconds", 600))
        secrets = [
            item["secret"]
            for item in endpoint[PRIVATE]["secrets"]
            if item["expires_at"] is None or item["expires_at"] > time.time()
        ]
        if FaultKind.WEBHOOK_BAD_SIGNATURE in faults:
            secrets = ["whsec_forged"]
        return signature_header(body, secrets, now)

    def _find_event_and_endpoint(self, delivery: Obj) -> tuple[Obj | None, Obj | None]:
        return (
            self._store.find("event", delivery["event"]),
            self._store.find("webhook_endpoint", delivery["endpoint"]),
        )

    def _settle(self, delivery: Obj, state: str) -> None:
        delivery["state"] = state
        self._store.save(delivery, DELIVERY)
        self._store.flush()

    # -- control ------------------------------------------------------------------------------

    def held(self) -> list[Obj]:
        return list(self._held)

    async def release(self, *, order: str, copies: int, parallel: int, seed: int) -> list[Obj]:
        """Sends what was held, each `copies` times; what is refused goes on as usual."""
        held, self._held = self._held, []
        for delivery in held:
            delivery["state"] = "pending"
        queue = [delivery for delivery in held for _ in range(copies)]
        if order == "reversed":
            queue.reverse()
        elif order == "shuffled":
            random.Random(seed).shuffle(queue)  # noqa: S311  repeatable tests, not secrets
        gate = asyncio.Semaphore(parallel)

        async def one(delivery: Obj) -> None:
            async with gate:
                await self.attempt(delivery)

        await asyncio.gather(*(one(delivery) for delivery in queue))
        for delivery in held:
            if delivery["state"] != "delivered":
                self._start(delivery)
        return held

    async def settle(self, timeout_seconds: float) -> bool:
        """Waits until nothing is on its way. False: something still was."""
        until = time.monotonic() + timeout_seconds
        while self._tasks:
            left = until - time.monotonic()
            if left <= 0:
                return False
            await asyncio.wait(set(self._tasks), timeout=left)
        return True

    def in_flight(self) -> int:
        return len(self._tasks)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._held.clear()
        self._reordered.clear()

    async def aclose(self) -> None:
        tasks = list(self._tasks)
        self.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()


def _subscribes(endpoint: Obj, type_: str) -> bool:
    enabled = endpoint["enabled_events"]
    return "*" in enabled or type_ in enabled
