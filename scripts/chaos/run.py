"""One run of `make chaos`, from the start of the product to the report."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil

from core.settings import load_settings
from core.storage.supabase import SupabaseStorage
from sandbox.stack.product import ROOT, Product
from scripts.api_client import Document
from scripts.chaos import both_ledgers, images, violations
from scripts.chaos.both_ledgers import BothLedgers, Row
from scripts.chaos.clients import RetryingClient
from scripts.chaos.fault_injector import FaultInjector
from scripts.chaos.people import make_people
from scripts.chaos.plan import FAULT_ARGS, FAULT_RATE, JWT_SECRET, Plan, make_plan
from scripts.chaos.progress import Progress, say
from scripts.chaos.violations import Promise, Violation

SECONDS_MAX = 14 * 60
_PENDING_SECONDS_MAX = 90
_RECOVERY_SECONDS_MAX = 60
_FETCHES_MAX = 4
_ENDS = {"succeeded", "failed", "cancelled"}


def run_chaos(n: int, seed: int, *, keep: bool = False) -> Document:
    """Starts the product, injects faults while clients send requests, and returns the report."""
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="jewelshot-chaos-"))
    folder.chmod(0o711)  # as root: PostgreSQL's own account has to traverse it
    # Thirty starts of a worker a minute: without compiled modules they would take all of the CPU.
    compiled = {"PYTHONDONTWRITEBYTECODE": ""}
    plan = make_plan(n, seed, start_seconds=_start_seconds(compiled))
    say(f"Starting PostgreSQL, Valkey, sandbox, API and {plan.workers} workers in {folder}.")
    product = Product(
        folder / "state",
        durable=False,
        temporary=not keep,
        settings=plan.settings() | compiled,
        fal_arguments=plan.fal_arguments(),
        workers=plan.workers,
    )
    try:
        with product:
            say(f"  Up in {time.monotonic() - started:.1f} s: API at {product.api_url}")
            report = asyncio.run(_Run(product, plan).report())
    finally:
        if keep:
            say(f"Kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    report["seconds"] = round(time.monotonic() - started, 1)
    return report


def _start_seconds(environ: dict[str, str]) -> float:
    """How long a worker takes to start here, mostly for imports; the first try compiles them."""
    seconds = 0.0
    for _ in range(2):
        started = time.monotonic()
        command = [sys.executable, "-c", "import worker.main"]
        subprocess.run(command, cwd=ROOT, env=os.environ | environ, check=True)
        seconds = time.monotonic() - started
    return seconds


class _Run:
    def __init__(self, product: Product, plan: Plan) -> None:
        self._product = product
        self._plan = plan
        self._injector = FaultInjector(product, plan)
        self._clients: list[RetryingClient] = []
        self._violations: list[Violation] = []
        self._images: Counter[str] = Counter()
        self._late_bought = 0

    async def report(self) -> Document:
        people = await make_people(self._product, self._plan.people, jwt_secret=JWT_SECRET)
        self._clients = [RetryingClient(self._product.api_url, person) for person in people]
        try:
            async with asyncio.timeout(SECONDS_MAX):
                await self._compute_cut_outs()
                await asyncio.to_thread(
                    both_ledgers.set_deadlines,
                    self._product,
                    self._plan.deadline_seconds,
                    self._plan.uncertain_seconds,
                )
                await self._run_with_faults()
                await self._recover()
                ledgers = await both_ledgers.read_both_ledgers(self._product)
                self._violations += violations.find_violations(ledgers, self._promises())
                await self._check_images(ledgers)
        except TimeoutError:
            self._add_violation("out_of_time", "run", f"not done after {SECONDS_MAX} s")
            ledgers = await both_ledgers.read_both_ledgers(self._product)
        finally:
            for client in self._clients:
                await client.aclose()
        return self._document(ledgers)

    async def _compute_cut_outs(self) -> None:
        """The provider's stand-in computes that of each photo once, in six seconds of CPU. In the
        middle of the starts of killed workers it would take longer than a deadline."""
        first = [
            (each, await each.create("/v1/generations", _cut_out(each), twice=False))
            for each in self._clients
        ]
        for client, made in first:
            assert made is not None, client.refusals
            path = f"/v1/generations/{made['id']}"
            while (await client.get(path))["state"] not in _ENDS:  # noqa: ASYNC110  as a client
                await asyncio.sleep(0.3)

    # -- requests and faults ------------------------------------------------------------------

    async def _run_with_faults(self) -> None:
        await self._control("POST", "/__control/chaos", self._chaos())
        started = time.monotonic()
        total = self._plan.n + len(self._clients)
        progress = Progress(total, self._clients, self._injector)
        disturbances = [
            asyncio.create_task(self._injector.kill_workers()),
            asyncio.create_task(self._injector.inject_outages()),
            asyncio.create_task(progress.run()),
        ]
        pairs = zip(self._clients, self._plan.requests, strict=True)
        sending = [
            asyncio.create_task(client.send_all(requests, started=started))
            for client, requests in pairs
        ]
        polling = [
            asyncio.create_task(client.poll_until_finished(task))
            for client, task in zip(self._clients, sending, strict=True)
        ]
        try:
            async with asyncio.timeout(self._plan.seconds_max):
                await asyncio.gather(*sending, *polling)
        except TimeoutError:
            open_count = sum(client.open_count for client in self._clients)
            self._add_violation(
                "never_ended", "run", f"{open_count} open after the longest deadline"
            )
        finally:
            progress.end()
            for task in (*disturbances, *sending, *polling):
                task.cancel()
            ended = await asyncio.gather(*disturbances, *sending, *polling, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception) and not isinstance(error, TimeoutError):
                raise error

    def _chaos(self) -> Document:
        return {"seed": self._plan.seed, "rate": FAULT_RATE, "args": dict(FAULT_ARGS)}

    async def _recover(self) -> None:
        """Without faults what is pending ends, and new generations succeed as before."""
        await self._control("DELETE", "/__control/faults")
        await self._control("DELETE", "/__control/outages")
        for child in (*self._product.workers, self._product.api):
            if not child.is_running():
                child.start(self._product.environ())
        await asyncio.to_thread(self._product.wait_ready)
        client = self._clients[0]
        probes = [
            await client.create("/v1/generations", _cut_out(client), twice=False) for _ in range(3)
        ]
        until = time.monotonic() + _RECOVERY_SECONDS_MAX
        for probe in probes:
            state = "refused"
            while probe is not None and time.monotonic() < until:
                state = (await client.get(f"/v1/generations/{probe['id']}"))["state"]
                if state in _ENDS:
                    break
                await asyncio.sleep(0.3)
            if state != "succeeded":
                self._add_violation(
                    "not_recovered", str(probe and probe["id"]), f"ended as {state}"
                )
        await self._buy_late_images()
        await both_ledgers.wait_until_nothing_pending(self._product, seconds=_PENDING_SECONDS_MAX)
        for client in self._clients:
            for identifier in client.generations:
                path = f"/v1/generations/{identifier}"
                client.generations[identifier] = await client.get(path)

    async def _buy_late_images(self) -> None:
        """Buys every second image that came after its generation was refunded."""
        rows = (await asyncio.to_thread(both_ledgers.read_late_images, self._product))[::2]
        owners = {key: each for each in self._clients for key in each.generations}
        for row in rows:
            client = owners[str(row["generation_id"])]
            path = f"/v1/generations/{row['generation_id']}/late-image"
            bought = await client.create(path, None, twice=False)
            self._late_bought += bought is not None

    # -- the checks ---------------------------------------------------------------------------

    def _promises(self) -> list[Promise]:
        return [
            Promise(each["id"], str(client.person.user_id), each["state"], each["money"])
            for client in self._clients
            for each in client.generations.values()
        ]

    async def _check_images(self, ledgers: BothLedgers) -> None:
        """Fetches every delivered image as its owner would, and looks for defects."""
        photos = {
            photo.upload_id: photo
            for photo in await asyncio.gather(*(self._photo(each) for each in self._clients))
        }
        owners = {each.person.user_id: each for each in self._clients}
        free = asyncio.Semaphore(_FETCHES_MAX)
        async with httpx.AsyncClient(timeout=30) as http:

            async def check(row: Row) -> None:
                async with free:
                    client = owners[row["user_id"]]
                    signed = await client.get(f"/v1/generations/{row['id']}/result")
                    reply = await http.get(signed["url"])
                defect: str | None = f"cannot be fetched: {reply.status_code}"
                if reply.is_success:
                    defect = await asyncio.to_thread(images.find_defect, reply.content, row, photos)
                self._images[row["operation"]] += 1
                if defect is not None:
                    self._add_violation("image", str(row["id"]), f"{row['operation']} {defect}")

            rows = [row for row in ledgers.generations if row["state"] == "succeeded"]
            await asyncio.gather(*(check(row) for row in rows))

    async def _photo(self, client: RetryingClient) -> images.Photo:
        settings = load_settings(self._product.environ())
        upload_id = client.person.upload_id
        key = await asyncio.to_thread(both_ledgers.find_normal_key, self._product, upload_id)
        async with httpx.AsyncClient(timeout=30) as http:
            storage = SupabaseStorage(settings, http)
            data = await storage.get(settings.storage_bucket_uploads, key)
        return images.Photo(upload_id, data)

    def _add_violation(self, rule: str, row_id: str | uuid.UUID, what: str) -> None:
        self._violations.append(Violation(rule, str(row_id), what))

    def _document(self, ledgers: BothLedgers) -> Document:
        counts: Counter[str] = Counter()
        for client in self._clients:
            counts.update(client.counts)
            for refusal in client.refusals:
                self._add_violation("client", str(client.person.user_id), refusal)
        for text in self._injector.ended_unkilled:
            self._add_violation("process_ended", text.partition(":")[0], text)
        return {
            "n": self._plan.n,
            "seed": self._plan.seed,
            "passed": not self._violations,
            "violations": [str(each) for each in self._violations],
            "workers": self._plan.workers,
            "deadline_seconds": self._plan.deadline_seconds,
            "disturbances": dict(self._injector.counts),
            "clients": dict(counts),
            **violations.count(ledgers),
            "late_images_bought": self._late_bought,
            "images_checked": dict(self._images),
            "cores": psutil.cpu_count(),
        }

    async def _control(self, method: str, path: str, body: Any = None) -> None:
        async with httpx.AsyncClient(base_url=self._product.fal_url, timeout=30) as http:
            (await http.request(method, path, json=body)).raise_for_status()


def _cut_out(client: RetryingClient) -> Document:
    return {"operation": "cutout", "upload_id": str(client.person.upload_id), "params": {}}
