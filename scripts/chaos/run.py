"""One run from start to report."""

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
from scripts.chaos import books as bookkeeping
from scripts.chaos import pictures, verdict
from scripts.chaos.books import Books
from scripts.chaos.customers import Customer
from scripts.chaos.monkey import Monkey
from scripts.chaos.people import make_people
from scripts.chaos.plan import FAULT_ARGS, FAULT_RATE, JWT_SECRET, Plan, make_plan
from scripts.chaos.progress import Progress, say
from scripts.chaos.verdict import Finding, Promise
from scripts.shopper import Document

SECONDS_MAX = 14 * 60
_CLOSE_SECONDS = 90
_HEALTHY_SECONDS = 60
_FETCHES_AT_ONCE = 4


def run_chaos(n: int, seed: int, *, keep: bool = False) -> Document:
    """Starts the product, does the worst, and returns the report."""
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="jewelshot-chaos-"))
    folder.chmod(0o711)  # under root the database's account passes through
    # Thirty starts of a worker a minute: without compiled modules that is all a machine would do.
    compiled = {"PYTHONPYCACHEPREFIX": str(folder / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
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
    """What a worker's start costs here and now, most of which is imports; compiles on the way."""
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
        self._monkey = Monkey(product, plan)
        self._customers: list[Customer] = []
        self._findings: list[Finding] = []
        self._images: Counter[str] = Counter()
        self._late_bought = 0

    async def report(self) -> Document:
        people = await make_people(self._product, self._plan.people, jwt_secret=JWT_SECRET)
        await asyncio.to_thread(
            bookkeeping.set_deadlines,
            self._product,
            self._plan.deadline_seconds,
            self._plan.uncertain_seconds,
        )
        self._customers = [Customer(self._product.api_url, person) for person in people]
        try:
            async with asyncio.timeout(SECONDS_MAX):
                await self._misbehave()
                await self._recover()
                books = await bookkeeping.read(self._product)
                self._findings += verdict.judge(books, self._promises())
                await self._check_images(books)
        except TimeoutError:
            self._find("out_of_time", "run", f"not done after {SECONDS_MAX} s")
            books = await bookkeeping.read(self._product)
        finally:
            for customer in self._customers:
                await customer.aclose()
        return self._document(books)

    # -- the storm ----------------------------------------------------------------------------

    async def _misbehave(self) -> None:
        await self._control("POST", "/__control/chaos", self._chaos())
        started = time.monotonic()
        progress = Progress(self._plan.n, self._customers, self._monkey)
        storm = [
            asyncio.create_task(self._monkey.kill_workers()),
            asyncio.create_task(self._monkey.disturb()),
            asyncio.create_task(progress.run()),
        ]
        pairs = zip(self._customers, self._plan.orders, strict=True)
        ordering = [
            asyncio.create_task(customer.order_all(orders, started=started))
            for customer, orders in pairs
        ]
        looking = [
            asyncio.create_task(customer.look_until_finished(task))
            for customer, task in zip(self._customers, ordering, strict=True)
        ]
        try:
            async with asyncio.timeout(self._plan.seconds_max):
                await asyncio.gather(*ordering, *looking)
        except TimeoutError:
            open_count = sum(customer.open_count for customer in self._customers)
            self._find("never_ended", "run", f"{open_count} open after the longest deadline")
        finally:
            progress.end()
            for task in (*storm, *ordering, *looking):
                task.cancel()
            ended = await asyncio.gather(*storm, *ordering, *looking, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception) and not isinstance(error, TimeoutError):
                raise error

    def _chaos(self) -> Document:
        return {"seed": self._plan.seed, "rate": FAULT_RATE, "args": dict(FAULT_ARGS)}

    async def _recover(self) -> None:
        """The storm is over: what is pending ends, and the product serves as on the first day."""
        await self._control("DELETE", "/__control/faults")
        for child in (*self._product.workers, self._product.api):
            if not child.is_running():
                child.start(self._product.environ())
        await asyncio.to_thread(self._product.wait_ready)
        customer = self._customers[0]
        body = {"operation": "cutout", "upload_id": str(customer.person.upload_id), "params": {}}
        probes = [await customer.create("/v1/generations", body, twice=False) for _ in range(3)]
        until = time.monotonic() + _HEALTHY_SECONDS
        for probe in probes:
            state = "refused"
            while probe is not None and time.monotonic() < until:
                state = (await customer.get(f"/v1/generations/{probe['id']}"))["state"]
                if state in {"succeeded", "failed", "cancelled"}:
                    break
                await asyncio.sleep(0.3)
            if state != "succeeded":
                self._find("not_recovered", str(probe and probe["id"]), f"ended as {state}")
        await self._buy_late_images()
        await bookkeeping.wait_until_closed(self._product, seconds=_CLOSE_SECONDS)
        for customer in self._customers:
            for identifier in customer.generations:
                path = f"/v1/generations/{identifier}"
                customer.generations[identifier] = await customer.get(path)

    async def _buy_late_images(self) -> None:
        """Half of the images that came after their refund are wanted all the same."""
        rows = (await asyncio.to_thread(bookkeeping.read_late_images, self._product))[::2]
        owners = {key: each for each in self._customers for key in each.generations}
        for row in rows:
            customer = owners[str(row["generation_id"])]
            path = f"/v1/generations/{row['generation_id']}/late-image"
            bought = await customer.create(path, None, twice=False)
            self._late_bought += bought is not None

    # -- the proof ----------------------------------------------------------------------------

    def _promises(self) -> list[Promise]:
        return [
            Promise(each["id"], str(customer.person.user_id), each["state"], each["money"])
            for customer in self._customers
            for each in customer.generations.values()
        ]

    async def _check_images(self, books: Books) -> None:
        """Every delivered image is fetched as its owner would."""
        photos = {
            photo.upload_id: photo
            for photo in await asyncio.gather(*(self._photo(each) for each in self._customers))
        }
        owners = {each.person.user_id: each for each in self._customers}
        free = asyncio.Semaphore(_FETCHES_AT_ONCE)
        async with httpx.AsyncClient(timeout=30) as http:

            async def check(row: bookkeeping.Row) -> None:
                async with free:
                    customer = owners[row["user_id"]]
                    signed = await customer.get(f"/v1/generations/{row['id']}/result")
                    reply = await http.get(signed["url"])
                wrong: str | None = f"cannot be fetched: {reply.status_code}"
                if reply.is_success:
                    wrong = await asyncio.to_thread(pictures.look, reply.content, row, photos)
                self._images[row["operation"]] += 1
                if wrong is not None:
                    self._find("image", str(row["id"]), f"{row['operation']} {wrong}")

            rows = [row for row in books.generations if row["state"] == "succeeded"]
            await asyncio.gather(*(check(row) for row in rows))

    async def _photo(self, customer: Customer) -> pictures.Photo:
        settings = load_settings(self._product.environ())
        upload_id = customer.person.upload_id
        key = await asyncio.to_thread(bookkeeping.normal_key, self._product, upload_id)
        async with httpx.AsyncClient(timeout=30) as http:
            storage = SupabaseStorage(settings, http)
            data = await storage.get(settings.storage_bucket_uploads, key)
        return pictures.Photo(upload_id, data)

    def _find(self, rule: str, row_id: str | uuid.UUID, what: str) -> None:
        self._findings.append(Finding(rule, str(row_id), what))

    def _document(self, books: Books) -> Document:
        clients: Counter[str] = Counter()
        for customer in self._customers:
            clients.update(customer.counts)
            for refusal in customer.refusals:
                self._find("client", str(customer.person.user_id), refusal)
        for text in self._monkey.ended_by_themselves:
            self._find("process_ended", text.partition(":")[0], text)
        return {
            "n": self._plan.n,
            "seed": self._plan.seed,
            "passed": not self._findings,
            "violations": [str(finding) for finding in self._findings],
            "workers": self._plan.workers,
            "deadline_seconds": self._plan.deadline_seconds,
            "disturbances": dict(self._monkey.counts),
            "clients": dict(clients),
            **verdict.count(books),
            "late_images_bought": self._late_bought,
            "images_checked": dict(self._images),
            "cores": psutil.cpu_count(),
        }

    async def _control(self, method: str, path: str, body: Any = None) -> None:
        async with httpx.AsyncClient(base_url=self._product.fal_url, timeout=30) as http:
            (await http.request(method, path, json=body)).raise_for_status()
