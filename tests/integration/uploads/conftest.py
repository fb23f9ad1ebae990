"""The API, the storage stand-in and the worker's wrapper in one process, on a real database."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from core.db import Database
from core.pixels.pool import PixelPool
from core.settings import Settings
from sandbox.supabase.config import SupabaseConfig
from scripts.seed import ensure_buckets
from tests.harness.applications import opened_supabase
from tests.harness.database import TestDatabase
from tests.harness.http import api_client
from tests.harness.worker import open_worker_context
from worker import runner
from worker.context import WorkerContext

BASE_URL = "http://127.0.0.1:54321"
SECRET = "sb_secret_test"
PUBLISHABLE = "sb_publishable_test"
PASSWORD = "correct horse"


OpenUploads = Callable[..., "contextlib.AbstractAsyncContextManager[UploadsHarness]"]


class Uploader:
    """A signed-in user of the API."""

    def __init__(self, client: httpx.AsyncClient, user_id: str, token: str) -> None:
        self.client = client
        self.id = user_id
        self.headers = {"Authorization": f"Bearer {token}"}

    async def send(
        self,
        data: bytes,
        name: str | None = "ring.jpg",
        *,
        content_type: str = "application/octet-stream",
        wait: int | None = None,
        key: str | None = None,
    ) -> httpx.Response:
        headers = dict(self.headers)
        if wait is not None:
            headers["Prefer"] = f"wait={wait}"
        if key is not None:
            headers["Idempotency-Key"] = key
        return await self.client.post(
            "/v1/uploads", files={"file": (name, data, content_type)}, headers=headers
        )

    async def start_direct(
        self,
        data: bytes,
        name: str = "ring.jpg",
        content_type: str = "image/jpeg",
        *,
        key: str | None = None,
        **more: Any,
    ) -> httpx.Response:
        body = {"file_name": name, "content_type": content_type, "size_bytes": len(data)}
        headers = self.headers | ({"Idempotency-Key": key} if key is not None else {})
        return await self.client.post("/v1/uploads/direct", json=body | more, headers=headers)

    async def complete(self, upload_id: str, *, wait: int | None = None) -> httpx.Response:
        headers = dict(self.headers)
        if wait is not None:
            headers["Prefer"] = f"wait={wait}"
        return await self.client.post(f"/v1/uploads/{upload_id}/complete", headers=headers)

    async def get(self, path: str, *, wait: int | None = None) -> httpx.Response:
        headers = self.headers | ({"Prefer": f"wait={wait}"} if wait is not None else {})
        return await self.client.get(path, headers=headers)

    async def delete(self, upload_id: str) -> httpx.Response:
        return await self.client.delete(f"/v1/uploads/{upload_id}", headers=self.headers)


class UploadsHarness:
    """Everything a test of uploads looks at."""

    def __init__(
        self,
        *,
        client: httpx.AsyncClient,
        storage_client: httpx.AsyncClient,
        database: TestDatabase,
        objects: Path,
        ctx: WorkerContext,
    ) -> None:
        self.client = client
        self.storage_client = storage_client
        self.database = database
        self.objects = objects
        self.ctx = ctx

    async def person(self, email: str = "ada@example.com") -> Uploader:
        keys = {"apikey": SECRET, "Authorization": f"Bearer {SECRET}"}
        made = await self.storage_client.post(
            "/auth/v1/admin/users",
            json={"email": email, "password": PASSWORD, "email_confirm": True},
            headers=keys,
        )
        session = await self.storage_client.post(
            "/auth/v1/token?grant_type=password",
            json={"email": email, "password": PASSWORD},
            headers={"apikey": PUBLISHABLE},
        )
        return Uploader(self.client, made.json()["id"], session.json()["access_token"])

    async def put(self, direct: dict[str, Any], data: bytes) -> httpx.Response:
        return await self.storage_client.put(direct["url"], content=data, headers=direct["headers"])

    async def fault(self, **fault: Any) -> None:
        answer = await self.storage_client.post("/__control/faults", json=fault)
        answer.raise_for_status()

    def stored_keys(self) -> list[str]:
        return [row["name"] for row in self.database.rows("select name from storage.objects")]

    def stored_files(self) -> list[Path]:
        return [path for path in self.objects.rglob("*") if path.is_file()]

    def rows(self) -> list[dict[str, Any]]:
        return self.database.rows("select * from app.uploads order by created_at")

    def task_jobs(self) -> list[str]:
        return [row["job"] for row in self.database.rows("select job from app.outbox order by job")]

    def files_of(self, upload_id: str | uuid.UUID) -> list[str]:
        """What the store has of an upload, by name without extension: original, normal, thumb."""
        keys = [key for key in self.stored_keys() if key.split("/")[1] == str(upload_id)]
        return sorted(key.rpartition("/")[2].partition(".")[0] for key in keys)

    def late_erasures(self) -> list[str]:
        """Uploads that are erased once more when their signed URL has ended: in two hours."""
        rows = self.database.rows(
            "select args ->> 'upload_id' as id from app.outbox where job = 'upload.erase'"
            " and due_at - app.now() between interval '7200 s' and interval '7600 s' order by 1"
        )
        return [row["id"] for row in rows]

    def nothing_is_left(self) -> bool:
        return not (self.stored_keys() or self.stored_files() or self.rows())

    async def work(self) -> list[str]:
        """Run every task that is due soon, as a worker would; what became of each."""
        outcomes: list[str] = []
        while due := self.database.rows(
            "select id from app.outbox where due_at < app.now() + interval '5 s'"
            " and lease_until is null order by created_at"
        ):
            outcomes += [await runner.execute(self.ctx, row["id"]) for row in due]
        return outcomes

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """A worker beside the requests of the block; it ends with nothing left that is due.

        It is told to stop and not cancelled, which would leave a task in the middle of its lease.
        """
        stopped = asyncio.Event()

        async def until_stopped() -> None:
            while not stopped.is_set():
                await self.work()
                await asyncio.sleep(0.02)
            await self.work()

        task = asyncio.create_task(until_stopped())
        try:
            yield
        finally:
            stopped.set()
            await task


@pytest.fixture(scope="session")
def pixels() -> Iterator[PixelPool]:
    """One process for all tests: starting it is the slow part."""
    pool = PixelPool(1)
    yield pool
    asyncio.run(pool.close())


@pytest.fixture
def supabase_config(database: TestDatabase, tmp_path: Path) -> SupabaseConfig:
    return SupabaseConfig(
        base_url=BASE_URL,
        site_url="http://127.0.0.1:3000",
        data_dir=tmp_path / "supabase",
        auth_database_url=database.url("supabase_auth_admin"),
        storage_database_url=database.url("supabase_storage_admin"),
        publishable_key=PUBLISHABLE,
        secret_key=SECRET,
        password_cost_log2=4,
        upload_bytes_max=60_000_000,
    )


@pytest.fixture
def open_uploads(
    supabase_config: SupabaseConfig,
    database: TestDatabase,
    db_worker: Database,
    make_settings: Callable[..., Settings],
    pixels: PixelPool,
) -> OpenUploads:
    """Keyword arguments are settings."""

    @contextlib.asynccontextmanager
    async def open_it(**more: Any) -> AsyncIterator[UploadsHarness]:
        settings = make_settings(supabase_url=BASE_URL, rate_limits_enabled=False, **more)
        async with contextlib.AsyncExitStack() as stack:
            app = await stack.enter_async_context(opened_supabase(supabase_config))
            wire = httpx.ASGITransport(cast("Any", app))
            client = await stack.enter_async_context(api_client(settings, transport=wire))
            http = await stack.enter_async_context(
                httpx.AsyncClient(transport=wire, base_url=BASE_URL)
            )
            await ensure_buckets(settings, http)
            ctx = await stack.enter_async_context(
                open_worker_context(settings, db=db_worker, http=http, pixels=pixels)
            )
            yield UploadsHarness(
                client=client,
                storage_client=http,
                database=database,
                objects=supabase_config.data_dir / "objects",
                ctx=ctx,
            )

    return open_it


@pytest.fixture
async def uploads(open_uploads: OpenUploads) -> AsyncIterator[UploadsHarness]:
    async with open_uploads() as opened:
        yield opened


@pytest.fixture
async def ada(uploads: UploadsHarness) -> Uploader:
    return await uploads.person()


@pytest.fixture
async def bob(uploads: UploadsHarness) -> Uploader:
    return await uploads.person("bob@example.com")


@pytest.fixture
def some_id() -> str:
    return str(uuid.uuid4())
