"""The clients: they order, cancel, try again and look, and repeat whatever got no answer.

A client knows only what the API told it. What it was promised is compared with the books later.
"""

import asyncio
import time
import uuid
from collections import Counter
from typing import Any

import httpx

from scripts.chaos.people import Person
from scripts.chaos.plan import Order
from scripts.shopper import FINISHED, Document

PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.3
_LOOK_SECONDS = 2.0
_PAGE = 100


class RefusedError(Exception):
    """The API gave an answer that a client may not repeat."""


class Customer:
    """One person's client. `generations` is what the API acknowledged, by id."""

    def __init__(self, api_url: str, person: Person) -> None:
        self.person = person
        self.generations: dict[str, Document] = {}
        self._changed = asyncio.Event()
        self.refusals: list[str] = []
        self.counts: Counter[str] = Counter()
        self._http = httpx.AsyncClient(
            base_url=api_url,
            headers={"Authorization": f"Bearer {person.token}"},
            timeout=httpx.Timeout(15, connect=3),
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def order_all(self, orders: tuple[Order, ...], *, started: float) -> None:
        """Each order at its time; returns when all were taken, cancelled and tried again."""
        async with asyncio.TaskGroup() as group:
            for order in orders:
                group.create_task(self._serve(order, started))

    async def _serve(self, order: Order, started: float) -> None:
        await asyncio.sleep(max(0.0, started + order.at - time.monotonic()))
        body = {
            "operation": order.operation,
            "upload_id": str(self.person.upload_id),
            "params": order.params,
            "priority": order.priority,
        }
        made = await self.create("/v1/generations", body, twice=order.is_sent_twice)
        if made is None:
            return
        if order.cancel_after is not None:
            await asyncio.sleep(order.cancel_after)
            await self._cancel(made["id"])
        if order.is_tried_again:
            await self._until_finished(made["id"])
            await self.create(f"/v1/generations/{made['id']}/retry", None, twice=True)
            self.counts["retries"] += 1

    async def create(self, path: str, body: Document | None, *, twice: bool) -> Document | None:
        """One generation under one key, however often it had to be said."""
        key = str(uuid.uuid4())
        answers = await asyncio.gather(
            *(self._insist("POST", path, body, key=key) for _ in range(2 if twice else 1))
        )
        if twice:
            self.counts["sent_twice"] += 1
        made = {answer["id"]: answer for answer in answers if answer is not None}
        if len(made) > 1:
            self.refusals.append(f"one Idempotency-Key made {len(made)} generations: {list(made)}")
        for identifier, answer in made.items():
            self.generations.setdefault(identifier, answer)
        return next(iter(made.values()), None)

    async def _cancel(self, identifier: str) -> None:
        path = f"/v1/generations/{identifier}/cancel"
        answer = await self._insist("POST", path, None, conflict_ends=True)
        self.counts["cancels"] += 1
        if answer is None:
            self.counts["cancels_too_late"] += 1

    async def _until_finished(self, identifier: str) -> None:
        while self.generations[identifier]["state"] not in FINISHED:
            await self._changed.wait()

    async def look_until_finished(self, ordering: "asyncio.Task[None]") -> None:
        """Keeps `generations` as the API shows them, until all are ordered and ended."""
        while not (ordering.done() and not self.open_count):
            await asyncio.sleep(_LOOK_SECONDS)
            await self._look()

    @property
    def open_count(self) -> int:
        return sum(each["state"] not in FINISHED for each in self.generations.values())

    async def _look(self) -> None:
        """Pages back until every open one was seen."""
        wanted = {key for key, each in self.generations.items() if each["state"] not in FINISHED}
        cursor: str | None = None
        while wanted:
            query: dict[str, Any] = {"limit": _PAGE} | ({"cursor": cursor} if cursor else {})
            page = await self._insist("GET", "/v1/generations", None, query=query)
            if page is None:
                return
            for item in page["items"]:
                if item["id"] in self.generations:
                    self.generations[item["id"]] = item
                wanted.discard(item["id"])
            self._changed.set()
            self._changed.clear()
            cursor = page["next_cursor"]
            if cursor is None:
                break
        if wanted:
            self.refusals.append(f"accepted, and not in the list: {sorted(wanted)}")

    async def get(self, path: str) -> Document:
        found = await self._insist("GET", path, None)
        if found is None:
            raise RefusedError(self.refusals[-1])
        return found

    async def _insist(
        self,
        method: str,
        path: str,
        body: Document | None,
        *,
        key: str | None = None,
        query: dict[str, Any] | None = None,
        conflict_ends: bool = False,
    ) -> Document | None:
        """Asks until there is an answer that ends it: a client has no better way to know.

        None: refused (noted in `refusals`), or ended before when `conflict_ends`.
        """
        headers = {} if key is None else {"Idempotency-Key": key}
        until = time.monotonic() + PATIENCE_SECONDS
        said = ""
        while time.monotonic() < until:
            try:
                reply = await self._http.request(
                    method, path, json=body, headers=headers, params=query
                )
            except httpx.HTTPError as error:
                self.counts["connection_errors"] += 1
                said = type(error).__name__
            else:
                if reply.is_success:
                    document: Document = reply.json()
                    return document
                said = f"{reply.status_code} {reply.text[:300]}"
                if conflict_ends and reply.status_code == 409:
                    return None
                if reply.status_code < 500 and reply.status_code not in {409, 429}:
                    break
                self.counts[f"answers_{reply.status_code}"] += 1
            await asyncio.sleep(_PAUSE_SECONDS)
        self.refusals.append(f"{method} {path}: {said}")
        return None
