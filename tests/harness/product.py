"""The product as it is installed: its own processes, reached over HTTP, looked at by SQL."""

import asyncio
import contextlib
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import psycopg
from psycopg.rows import DictRow, dict_row

from sandbox.stack.product import Child, Product
from scripts.api_client import FINISHED, ApiClient, Document
from scripts.chaos.both_ledgers import find_drift
from scripts.chaos.people import make_people
from scripts.people import Person

JWT_SECRET = "acceptance-only-secret-of-the-local-sandbox-0123456789"
# What a test may shorten, and what it is otherwise.
SETTINGS = {
    "SUPABASE_JWT_SECRET": JWT_SECRET,
    "RATE_LIMITS_ENABLED": "false",
    "PROVIDER_ACCOUNT_SLOTS": "8",
    "PROVIDER_SUBMIT_TIMEOUT_SECONDS": "6",
    "PROVIDER_AMBIGUOUS_GRACE_SECONDS": "3",
    "PROVIDER_POLL_FIRST_SECONDS": "1",
    "PROVIDER_POLL_SECONDS_MAX": "2",
    "PROVIDER_BREAKER_SECONDS": "1",
    "SWEEP_TICK_SECONDS": "0.5",
    "TASK_LEASE_SECONDS": "8",
}
FAL_ARGUMENTS = ("--account-limit", "16", "--model-seconds", "0.3")


class ProductHarness:
    """One started product without workers, and one person with a photo; tests bring workers."""

    def __init__(self, processes: Product) -> None:
        self.processes = processes
        self.person: Person
        self._workers = 0

    async def open(self) -> None:
        """The person, and every picture once: the sandbox computes it at its first use."""
        with self.worker():
            self.person = (await make_people(self.processes, 1, jwt_secret=JWT_SECRET))[0]
            async with self.client() as client:
                await self.make(client, "cutout")
                await self.make(client, "scene_hd", preset="marble")

    # -- workers ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def worker(self, **environ: str) -> Iterator[Child]:
        """A worker process for a while, with other settings than the product's."""
        child = self.start_worker(**environ)
        try:
            yield child
        finally:
            child.stop()

    def start_worker(self, **environ: str) -> Child:
        self._workers += 1
        log = self.processes.state_dir / "logs" / f"test-worker-{self._workers}.log"
        child = Child(f"worker {self._workers}", ["worker"], log)
        child.start(self.processes.environ() | environ)
        return child

    def wait_started(self, child: Child, *, seconds: float = 60) -> None:
        self.wait("a started worker", lambda: "worker.started" in child.tail(200), seconds=seconds)

    def wait_ended(self, child: Child, number: signal.Signals, *, seconds: float) -> float:
        """Seconds until the process has ended after the signal."""
        started = time.monotonic()
        child.signal(number)
        self.wait("the end of a worker", lambda: not child.is_running(), seconds=seconds)
        return time.monotonic() - started

    def wait(self, what: str, condition: Any, *, seconds: float = 60) -> Any:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := condition():
                return found
            time.sleep(0.05)
        raise AssertionError(f"no {what} in {seconds} s")

    # -- what a user does ---------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[ApiClient]:
        async with ApiClient(self.processes.api_url, self.person.token) as client:
            yield client

    async def start(self, client: ApiClient, operation: str, **params: Any) -> str:
        body = {
            "operation": operation,
            "upload_id": str(self.person.upload_id),
            "params": params,
        }
        return str((await client.post("/v1/generations", body))["id"])

    async def finish(self, client: ApiClient, identifier: str, *, seconds: float = 90) -> Document:
        async with asyncio.timeout(seconds):
            while True:
                found = await client.get(f"/v1/generations/{identifier}")
                if found["state"] in FINISHED:
                    return found
                await asyncio.sleep(0.1)

    async def make(self, client: ApiClient, operation: str, **params: Any) -> Document:
        return await self.finish(client, await self.start(client, operation, **params))

    # -- what stands in the books -------------------------------------------------------------

    def rows(self, query: str, *params: Any) -> list[DictRow]:
        url = self.processes.stack.postgres.url()
        with psycopg.connect(url, row_factory=dict_row, autocommit=True) as conn:
            cursor = conn.execute(query.encode(), params or None)
            return cursor.fetchall() if cursor.description else []

    def calls(self, generation_id: str) -> list[DictRow]:
        return self.rows(
            "select * from app.provider_calls where generation_id = %s order by attempt",
            uuid.UUID(generation_id),
        )

    def generation(self, generation_id: str) -> DictRow:
        (row,) = self.rows(
            "select generation.*, reservation.state as money from app.generations as generation"
            " join app.reservations as reservation on reservation.subject_id = generation.id"
            " where generation.id = %s",
            uuid.UUID(generation_id),
        )
        return row

    def ledger(self) -> list[Document]:
        """The provider's own rows."""
        found: list[Document] = self.control("GET", "ledger")["calls"]
        return found

    def control(self, method: str, path: str, body: Any = None) -> Document:
        url = f"{self.processes.fal_url}/__control/{path}"
        reply = httpx.request(method, url, json=body, timeout=10)
        reply.raise_for_status()
        document: Document = reply.json() if reply.content else {}
        return document

    def misbehave(self, *rules: Document) -> None:
        self.control("POST", "faults", list(rules))

    def has_misbehaved(self) -> bool:
        """Whether a submit that a rule is for has reached the provider."""
        return any(rule["fired"] for rule in self.control("GET", "faults")["rules"])

    def reset(self) -> None:
        """No faults, an empty bill, nobody's money or work from the test before."""
        self.control("POST", "reset")

    async def assert_settled(self) -> None:
        """What must hold between tests: nothing pending, every credit accounted for."""
        tasks = self.rows("select job, args, claims, failures, last_error from app.outbox")
        assert tasks == []
        assert self.rows("select job, args, error from app.dead_letters") == []
        open_calls = self.rows(
            "select id, state from app.provider_calls"
            " where state in ('submitting', 'accepted', 'ambiguous')"
        )
        assert open_calls == []
        assert await find_drift(self.processes) == []

    def has_tasks(self) -> bool:
        return bool(self.rows("select 1 from app.outbox limit 1"))

    async def settle(self, *, seconds: float = 60) -> None:
        """Until every task is done."""
        async with asyncio.timeout(seconds):
            while self.has_tasks():  # noqa: ASYNC110  another process
                await asyncio.sleep(0.1)
