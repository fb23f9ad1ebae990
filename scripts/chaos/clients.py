"""HTTP clients that request, cancel, retry and poll, and repeat each request that got no answer.

A client knows only what the API answered. `violations` compares those answers with the ledgers.
"""

import asyncio
import time
import uuid
from collections import Counter
from typing import Any

import httpx

from scripts.api_client import FINISHED, Document
from scripts.chaos.plan import Request
from scripts.people import Person

ANSWER_SECONDS_MAX = 60.0
_PAUSE_SECONDS = 0.3
_POLL_SECONDS = 2.0
_PAGE = 100


class RefusedError(Exception):
    """The API answered in a way after which a client may not repeat its request."""


class RetryingClient:
    """The client of one person. `generations` is what the API acknowledged, by id."""

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

    async def send_all(self, requests: tuple[Request, ...], *, started: float) -> None:
        """Sends each request at its time; returns when all were accepted, cancelled and retried."""
        async with asyncio.TaskGroup() as group:
            for request in requests:
                group.create_task(self._send(request, started))

    async def _send(self, request: Request, started: float) -> None:
        await asyncio.sleep(max(0.0, started + request.at - time.monotonic()))
        body = {
            "operation": request.operation,
            "upload_id": str(self.person.upload_id),
            "params": request.params,
            "priority": request.priority,
        }
        created = await self.create("/v1/generations", body, twice=request.is_sent_twice)
        if created is None:
            return
        if request.cancel_after is not None:
            await asyncio.sleep(request.cancel_after)
            await self._cancel(created["id"])
        if request.is_retried:
            await self._until_finished(created["id"])
            await self.create(f"/v1/generations/{created['id']}/retry", None, twice=True)
            self.counts["retries"] += 1

    async def create(self, path: str, body: Document | None, *, twice: bool) -> Document | None:
        """One generation under one idempotency key, however often the request was repeated."""
        key = str(uuid.uuid4())
        answers = await asyncio.gather(
            *(self._request("POST", path, body, key=key) for _ in range(2 if twice else 1))
        )
        if twice:
            self.counts["sent_twice"] += 1
        created = {answer["id"]: answer for answer in answers if answer is not None}
        if len(created) > 1:
            self.refusals.append(
                f"one Idempotency-Key created {len(created)} generations: {list(created)}"
            )
        for identifier, answer in created.items():
            self.generations.setdefault(identifier, answer)
        return next(iter(created.values()), None)

    async def _cancel(self, identifier: str) -> None:
        path = f"/v1/generations/{identifier}/cancel"
        answer = await self._request("POST", path, None, conflict_ends=True)
        self.counts["cancels"] += 1
        if answer is None:
            self.counts["cancels_too_late"] += 1

    async def _until_finished(self, identifier: str) -> None:
        while self.generations[identifier]["state"] not in FINISHED:
            await self._changed.wait()

    async def poll_until_finished(self, sending: "asyncio.Task[None]") -> None:
        """Keeps `generations` as the API shows them, until all are sent and ended."""
        while not (sending.done() and not self.open_count):
            await asyncio.sleep(_POLL_SECONDS)
            await self._poll()

    @property
    def open_count(self) -> int:
        return sum(each["state"] not in FINISHED for each in self.generations.values())

    async def _poll(self) -> None:
        """Reads pages, newest first, until every open generation was seen."""
        wanted = {key for key, each in self.generations.items() if each["state"] not in FINISHED}
        cursor: str | None = None
        while wanted:
            query: dict[str, Any] = {"limit": _PAGE} | ({"cursor": cursor} if cursor else {})
            page = await self._request("GET", "/v1/generations", None, query=query)
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
        found = await self._request("GET", path, None)
        if found is None:
            raise RefusedError(self.refusals[-1])
        return found

    async def _request(
        self,
        method: str,
        path: str,
        body: Document | None,
        *,
        key: str | None = None,
        query: dict[str, Any] | None = None,
        conflict_ends: bool = False,
    ) -> Document | None:
        """Repeats the request until an answer settles it, as a client has to that knows no outcome.

        None: refused (recorded in `refusals`), or ended before when `conflict_ends`.
        """
        headers = {} if key is None else {"Idempotency-Key": key}
        until = time.monotonic() + ANSWER_SECONDS_MAX
        last_answer = ""
        while time.monotonic() < until:
            try:
                reply = await self._http.request(
                    method, path, json=body, headers=headers, params=query
                )
            except httpx.HTTPError as error:
                self.counts["connection_errors"] += 1
                last_answer = type(error).__name__
            else:
                if reply.is_success:
                    document: Document = reply.json()
                    return document
                last_answer = f"{reply.status_code} {reply.text[:300]}"
                if conflict_ends and reply.status_code == 409:
                    return None
                if reply.status_code < 500 and reply.status_code not in {409, 429}:
                    break
                self.counts[f"answers_{reply.status_code}"] += 1
            await asyncio.sleep(_PAUSE_SECONDS)
        self.refusals.append(f"{method} {path}: {last_answer}")
        return None
