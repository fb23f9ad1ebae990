"""API, storage, provider and the worker's tools in one process, on a real database and Valkey.

Nothing runs by itself: a test executes tasks, dispatches, polls and sweeps when it wants to, and
moves the database's clocks instead of sleeping.
"""

import asyncio
import contextlib
import io
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import httpx
import rq
from litestar import Litestar
from PIL import Image, ImageDraw

from core.db import Connection, Database
from core.generations.pipeline import dispatch, poll, queries, sweep
from core.generations.pipeline.types import CallIntent
from core.generations.providers.accounts import fingerprints_of
from core.generations.providers.base import Submission
from core.generations.providers.types import Accepted
from core.tasks import wakeups
from core.tasks.queues import Queue
from tests.harness.database import TestDatabase
from tests.harness.ledger import Ledger
from tests.harness.router import HttpRouter
from tests.harness.tokens import TokenIssuer
from worker import runner
from worker.context import WorkerContext

SUPABASE_URL = "http://127.0.0.1:54321"
FAL_URL = "http://127.0.0.1:54330"
API_URL = "http://127.0.0.1:8000"
WEBHOOKS = "/v1/webhooks/fal/"
CUTOUT_ENDPOINT = "fal-ai/birefnet/v2"
SCENE_ENDPOINT = "fal-ai/nano-banana-2/edit"
UPSCALE_ENDPOINT = "fal-ai/seedvr/upscale/image"
# What an order asks for unless the test says otherwise. A packshot of the usual 2000 pixels takes
# half a second of CPU, the smallest a quarter of that.
PARAMS: dict[str, dict[str, Any]] = {
    "packshot": {"size": 1024},
    "scene": {"preset": "marble"},
    "scene_hd": {"preset": "marble"},
}
FINISHED = {"succeeded", "failed", "cancelled"}


def small_photo() -> bytes:
    """A normalised photo: square, as the provider's fixed pictures are."""
    image = Image.new("RGB", (96, 96), (214, 208, 199))
    ImageDraw.Draw(image).ellipse((28, 28, 68, 68), outline=(190, 150, 60), width=7)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


PHOTO = small_photo()


class PhotoOwner:
    """Somebody with credits and one photo that is ready."""

    def __init__(
        self, client: httpx.AsyncClient, user_id: uuid.UUID, upload_id: uuid.UUID, token: str
    ) -> None:
        self.client = client
        self.id = user_id
        self.upload_id = upload_id
        self.headers = {"Authorization": f"Bearer {token}"}

    async def get(self, path: str, **params: Any) -> httpx.Response:
        return await self.client.get(path, params=params, headers=self.headers)

    async def get_later(self, path: str, *, wait: int) -> httpx.Response:
        """The answer when the thing is settled, or after `wait` seconds."""
        return await self.client.get(path, headers=self.headers | {"Prefer": f"wait={wait}"})

    async def post(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        wait: int | None = None,
    ) -> httpx.Response:
        headers = dict(self.headers)
        if key is not None:
            headers["Idempotency-Key"] = key
        if wait is not None:
            headers["Prefer"] = f"wait={wait}"
        return await self.client.post(path, json=body, headers=headers)

    def order(self, operation: str = "cutout", **changes: Any) -> dict[str, Any]:
        params = PARAMS.get(operation, {})
        body = {"operation": operation, "upload_id": str(self.upload_id), "params": params}
        return {**body, **changes}

    async def create(
        self,
        operation: str = "cutout",
        *,
        key: str | None = None,
        wait: int | None = None,
        **changes: Any,
    ) -> httpx.Response:
        return await self.post(
            "/v1/generations", self.order(operation, **changes), key=key, wait=wait
        )

    async def start(self, operation: str = "cutout", **changes: Any) -> str:
        """A generation that was accepted; its id."""
        answer = await self.create(operation, **changes)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def read(self, generation_id: str) -> dict[str, Any]:
        answer = await self.get(f"/v1/generations/{generation_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


class PipelineHarness:
    def __init__(
        self,
        *,
        api: Litestar,
        client: httpx.AsyncClient,
        provider: Litestar,
        fal: httpx.AsyncClient,
        router: HttpRouter,
        database: TestDatabase,
        issuer: TokenIssuer,
        ctx: WorkerContext,
        clock: Database,
    ) -> None:
        self.api = api
        self.client = client
        self.provider = provider
        self.fal = fal
        self.router = router
        self.database = database
        self.clock = database.clock
        self.ledger = Ledger(database)
        self.issuer = issuer
        self.ctx = ctx
        self._clock = clock
        self.may_bury = False

    # --- people ------------------------------------------------------------------------------

    async def person(self, credits_: int = 10, *, photo: bytes = PHOTO) -> PhotoOwner:
        user_id = self.ledger.user(credits_)
        upload_id = await self.upload(user_id, photo)
        return PhotoOwner(self.client, user_id, upload_id, self.issuer.token(user_id))

    async def upload(
        self, user_id: uuid.UUID, photo: bytes = PHOTO, *, state: str = "ready"
    ) -> uuid.UUID:
        upload_id = uuid.uuid4()
        key = f"{user_id}/{upload_id}/normal.png"
        with Image.open(io.BytesIO(photo)) as image:
            size = image.size
        if state == "ready":
            bucket = self.ctx.settings.storage_bucket_uploads
            await self.ctx.storage.put(bucket, key, photo, "image/png")
        is_ready = state == "ready"
        self.database.rows(
            "insert into app.uploads (id, user_id, state, storage_key, normal_key, pixel_sha256,"
            " content_type, width, height, problem)"
            " values (%s, %s, %s, 'original.png', %s, %s, 'image/png', %s, %s, %s::jsonb)",
            (
                *(upload_id, user_id, state),
                *((key, "abc", *size) if is_ready else (None,) * 4),
                '{"code": "test", "detail": "test"}' if state == "rejected" else None,
            ),
        )
        return upload_id

    def admin(self, *, aal: str = "aal2") -> dict[str, str]:
        return self.issuer.headers(app_metadata={"role": "admin"}, aal=aal)

    # --- the provider ------------------------------------------------------------------------

    async def fault(self, kind: str, *, times: int | None = None, **rule: Any) -> None:
        names = ("endpoint", "nth", "contains")
        match = {name: rule.pop(name) for name in names if name in rule}
        body = {"kind": kind, "times": times, "match": match, "args": rule}
        answer = await self.fal.post("/__control/faults", json=body)
        assert answer.status_code == 200, answer.text

    async def outage(self, kind: str, **rest: Any) -> str:
        """Something is wrong with the provider's routes from now on; its id."""
        answer = await self.fal.post("/__control/outages", json={"kind": kind, **rest})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    async def heal(self) -> None:
        """Nothing is wrong with the provider's routes any more."""
        assert (await self.fal.delete("/__control/outages")).status_code == 200

    async def tune(self, **changes: Any) -> None:
        answer = await self.fal.patch("/__control/config", json=changes)
        assert answer.status_code == 200, answer.text

    async def paid_calls(self) -> list[dict[str, Any]]:
        """What the provider has accepted, by its own ledger."""
        calls: list[dict[str, Any]] = (await self.fal.get("/__control/ledger")).json()["calls"]
        return calls

    def submits(self) -> int:
        return len(self.router.posts_to(FAL_URL, "/fal-ai/"))

    async def settle(self) -> None:
        """Until every model has ended and every webhook has been sent, or will never be."""
        async with asyncio.timeout(20):
            while True:
                calls = await self.paid_calls()
                settled = [await self._is_settled(call["request_id"]) for call in calls]
                if all(settled):
                    return
                await asyncio.sleep(0.005)

    async def settle_one(self, call_id: uuid.UUID) -> None:
        """As `settle`, for one of several calls."""
        async with asyncio.timeout(20):
            while True:
                for call in await self.paid_calls():
                    if str(call_id) in call["webhook_url"] and await self._is_settled(
                        call["request_id"]
                    ):
                        return
                await asyncio.sleep(0.005)

    async def _is_settled(self, request_id: str) -> bool:
        answer = await self.fal.get(f"/__control/requests/{request_id}")
        if answer.status_code == 404:
            return True
        said = answer.json()
        return bool(said["status"]["status"] == "COMPLETED" and said["webhook"]["settled"])

    # --- the worker --------------------------------------------------------------------------

    async def run_tasks(self, job: str | None = None) -> list[str]:
        """Every task that nobody holds and that is due within five seconds, once each."""
        due = self.database.rows(
            "select id from app.outbox where due_at < app.now() + interval '5 s'"
            " and (lease_until is null or lease_until < app.now())"
            " and (%s::text is null or job = %s) order by created_at, id",
            (job, job),
        )
        outcomes = [await runner.execute(self.ctx, row["id"]) for row in due]
        await self.ctx.wait_for_background(timeout_seconds=20)
        return outcomes

    async def run_one(self, task_id: uuid.UUID) -> str:
        outcome = await runner.execute(self.ctx, task_id)
        await self.ctx.wait_for_background(timeout_seconds=20)
        return outcome

    async def dispatch(self) -> int:
        opened = await dispatch.dispatch_waiting(self.ctx)
        await self.ctx.wait_for_background(timeout_seconds=20)
        return opened

    async def poll(self) -> int:
        """One round of polls of every open call, whenever it would have been due."""
        self.pass_polls()
        started = await poll.poll_due(self.ctx)
        await self.ctx.wait_for_background(timeout_seconds=20)
        return started

    async def sweep(self) -> int:
        changed = await sweep.sweep(self.ctx)
        await self.ctx.wait_for_background(timeout_seconds=20)
        return changed

    async def refresh_outlook(self) -> None:
        """Now, however short ago it was done last."""
        await self.ctx.db.run(lambda conn: queries.refresh_outlook(conn, every_seconds=0))

    async def open_calls(self, limit: int = 1) -> list[CallIntent]:
        """Calls are opened and nothing is sent: a worker that dies right then."""
        return await self.ctx.db.run(
            lambda conn: queries.open_calls(
                conn, fingerprints_of(self.ctx.providers), limit=limit, lease_seconds=30
            )
        )

    async def send(self, intent: CallIntent) -> None:
        """The POST of a call that was opened before, and the record of its answer."""
        await dispatch.submit(self.ctx, intent)

    async def post(self, intent: CallIntent) -> Accepted:
        """The POST of an intent, whose answer is not recorded."""
        outcome = await self.ctx.providers[intent.provider].submit(
            Submission(
                step=intent.provider_step,
                params=intent.params,
                presets=intent.presets,
                image_url="http://127.0.0.1/photo.png",
                operation=intent.operation,
                key_fingerprint=intent.key_fingerprint,
                webhook_url=f"{API_URL}{WEBHOOKS}{intent.call_id}/{intent.callback_token}",
                start_timeout_seconds=60,
            )
        )
        assert isinstance(outcome, Accepted), outcome
        return outcome

    async def record(self, intent: CallIntent, accepted: Accepted) -> None:
        await self.ctx.db.run(
            lambda conn: queries.record_accepted(conn, intent.call_id, accepted, poll_seconds=4)
        )

    async def submit(self) -> None:
        """Everything that waits is at the provider, whose models have ended."""
        await self.dispatch()
        await self.settle()

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """A worker beside the block; webhooks arrive by themselves."""

        async def forever() -> None:
            while True:
                await self.run_tasks()
                await self.dispatch()
                await asyncio.sleep(0.01)

        worker = asyncio.create_task(forever(), name="worker")
        try:
            yield
        finally:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)

    async def finish(self, generation_id: str, *, rounds: int = 12) -> dict[str, Any]:
        """What a worker does until the generation has ended; waits are skipped."""
        for _ in range(rounds):
            await self.run_tasks()
            if self.state(generation_id) in FINISHED:
                break
            self.pass_backoff()
            await self.dispatch()
            await self.settle()
            await self.poll()
        found = self.generation(generation_id)
        assert found["state"] in FINISHED, f"still {found['state']}"
        await self.run_tasks("provider_call.cancel")
        return found

    # --- clocks ------------------------------------------------------------------------------

    async def move(self, query: str, params: Sequence[Any] = ()) -> None:
        """One statement as superuser. Not by `database`, which would hold up the loop while a
        handler of this very loop holds the row's lock."""

        async def work(conn: Connection) -> None:
            await conn.execute(query.encode(), params or None)

        await self._clock.run(work)

    def pass_backoff(self) -> None:
        """Until whatever waits for another attempt waits no longer."""
        self.clock.advance_past(
            "select greatest("
            " (select max(available_at) from app.generations where state = 'queued'),"
            " (select max(due_at) from app.outbox where lease_until is null))"
        )

    def pass_leases(self) -> None:
        self.clock.advance_past(
            "select greatest("
            " (select max(lease_until) from app.provider_calls where state = 'submitting'),"
            " (select max(lease_until) from app.outbox))"
        )

    def pass_grace(self) -> None:
        self.clock.advance_past(
            "select max(grace_until) from app.provider_calls where state = 'ambiguous'"
        )

    def pass_polls(self) -> None:
        """Until every open call is due to be asked after."""
        self.clock.advance_past("select max(next_poll_at) from app.provider_calls")

    def pass_wait(self, generation_id: str) -> None:
        self.clock.advance_past(
            "select wait_until from app.generations where id = %s", (generation_id,)
        )

    def pass_give_up(self, generation_id: str) -> None:
        self.clock.advance_past(
            "select give_up_at from app.generations where id = %s", (generation_id,)
        )

    def pass_deadline(self, generation_id: str) -> None:
        self.clock.advance_past(
            "select deadline_at from app.generations where id = %s", (generation_id,)
        )

    def pass_breaker(self) -> None:
        self.clock.advance_past("select max(breaker_until) from app.provider_accounts")

    def pass_cooldown(self) -> None:
        self.clock.advance_past("select max(cooldown_until) from app.provider_accounts")

    # --- reading ------------------------------------------------------------------------------

    def generation(self, generation_id: str) -> dict[str, Any]:
        return self.database.row("select * from app.generations where id = %s", (generation_id,))

    def state(self, generation_id: str) -> str:
        return str(self.generation(generation_id)["state"])

    def states(self, generation_id: str) -> list[str]:
        """Every state it has been in, in order."""
        return [
            row["state"]
            for row in self.database.rows(
                "select payload ->> 'state' as state from app.events"
                " where subject_id = %s and type like 'generation.%%' order by version",
                (generation_id,),
            )
        ]

    def calls(self, generation_id: str) -> list[dict[str, Any]]:
        return self.database.rows(
            "select * from app.provider_calls where generation_id = %s order by attempt",
            (generation_id,),
        )

    def call(self, generation_id: str) -> dict[str, Any]:
        """The only one."""
        (call,) = self.calls(generation_id)
        return call

    def jobs(self) -> list[str]:
        return [row["job"] for row in self.database.rows("select job from app.outbox order by job")]

    def tasks(self) -> list[dict[str, Any]]:
        return self.database.rows("select * from app.outbox order by created_at, id")

    def ticket_of(self, generation_id: str) -> str:
        """Id of the task that a generation waits to be served by."""
        row = self.database.row(
            "select id from app.outbox where job = 'generation.dispatch' and dedupe_key = %s",
            (generation_id,),
        )
        return str(row["id"])

    def wake_ups(self) -> list[str]:
        """What should have been sent to Redis for the tasks that wait."""
        return [f"{task['id']}-{task['claims']}" for task in self.tasks()]

    def queued_jobs(self, queue: Queue = Queue.DEFAULT) -> list[str]:
        """Ids of the RQ jobs in Valkey that nobody has taken yet."""
        settings = self.ctx.settings
        with wakeups.connect_redis(settings) as connection:
            name = wakeups.queue_name(settings, queue)
            return [str(job) for job in rq.Queue(name, connection=connection).get_job_ids()]

    async def until_woken(self, count: int = 1, queue: Queue = Queue.DEFAULT) -> list[str]:
        """As `queued_jobs`, as soon as there are so many: a commit wakes on another thread."""
        async with asyncio.timeout(10):
            while len(found := self.queued_jobs(queue)) < count:  # noqa: ASYNC110  as said
                await asyncio.sleep(0.01)
        return found

    async def flush_redis(self) -> None:
        with wakeups.connect_redis(self.ctx.settings) as connection:
            connection.flushall()

    def account(self, name: str = "main") -> dict[str, Any]:
        return self.database.row("select * from app.provider_accounts where name = %s", (name,))

    def balance(self, person: PhotoOwner) -> tuple[int, int]:
        available, reserved, _ = self.ledger.balance(person.id)
        return available, reserved

    def dead_letters(self) -> list[dict[str, Any]]:
        return self.database.rows("select * from app.dead_letters order by died_at")

    def now(self) -> datetime:
        return self.clock.now()
