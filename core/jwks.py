"""The keys that another service publishes, as a JWK set (RFC 7517), for one process.

It decides when a set is fetched and how long one may be used. Its owner decides what the keys are
and what they sign.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

import httpx
import msgspec
import structlog

from core.errors import TemporarilyUnavailableError

log = structlog.get_logger()

Keys = TypeVar("Keys")
Entries = Sequence[Mapping[str, Any]]

_FETCH_TIMEOUT: Final = httpx.Timeout(5, connect=3)


class KeySet(Generic[Keys]):
    def __init__(
        self,
        http: httpx.AsyncClient,
        url: str,
        *,
        what: str,
        read: Callable[[Entries], Keys],
        fresh_seconds: float,
        usable_seconds: float = math.inf,
        retry_seconds: float,
        refetch_seconds: float,
        refetch_burst: int = 1,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`what` names the set in errors and logs. `read` makes keys of the set's entries; a
        ValueError means that the set cannot be used.

        A set older than `fresh_seconds` still serves while a new one is fetched in the background,
        one older than `usable_seconds` does not. Without any, it is fetched every
        `retry_seconds`; because of a signature that no known key made, every `refetch_seconds`,
        so that forged signatures cause no unlimited requests. With a `refetch_burst` as many are
        fetched at once, and who comes after them waits for the next: a forged one does not refuse
        the first of a new key.
        """
        self._http = http
        self._url = url
        self._what = what
        self._read = read
        self._fresh_seconds = fresh_seconds
        self._usable_seconds = usable_seconds
        self._retry_seconds = retry_seconds
        self._refetch_seconds = refetch_seconds
        self._burst = refetch_burst
        self._spared = float(refetch_burst)
        self._tries = 0
        self._now = now
        self._keys: Keys | None = None
        self._fetched_at = -math.inf
        self._tried_at = -math.inf
        self._lock = asyncio.Lock()
        self._refresh: asyncio.Task[None] | None = None

    async def get(self) -> Keys:
        """Raises: TemporarilyUnavailableError without a usable set."""
        keys = self.find()
        if keys is not None:
            return keys
        async with self._lock:
            if self._age() >= self._usable_seconds and self._may_fetch(self._retry_seconds):
                await self._fetch()
            if self._keys is None or self._age() >= self._usable_seconds:
                raise TemporarilyUnavailableError(what=self._what)
            return self._keys

    def find(self) -> Keys | None:
        """The set, if a usable one is here; one that is no longer fresh is fetched anew, later."""
        age = self._age()
        if self._keys is None or age >= self._usable_seconds:
            return None
        if age > self._fresh_seconds and self._may_fetch(self._refetch_seconds):
            self._fetch_in_background()
        return self._keys

    async def get_newer(self, seen: Keys) -> Keys:
        """Another set than `seen`, if it may be fetched; all waiters share the answer."""
        tries = self._tries
        async with self._lock:
            if self._keys is seen and self._tries == tries:
                pause = (1 - self._refetches()) * self._refetch_seconds
                if pause > 0 and self._burst > 1:
                    await asyncio.sleep(pause)
                if pause <= 0 or self._burst > 1:
                    await self._fetch()
            return seen if self._keys is None else self._keys

    def _refetches(self) -> float:
        """How many may be made now: one more in each `refetch_seconds`, up to the burst."""
        since = (self._now() - self._tried_at) / self._refetch_seconds
        return min(float(self._burst), self._spared + since)

    async def close(self) -> None:
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.gather(self._refresh, return_exceptions=True)

    def _age(self) -> float:
        return self._now() - self._fetched_at

    def _may_fetch(self, pause_seconds: float) -> bool:
        return self._now() - self._tried_at >= pause_seconds

    def _fetch_in_background(self) -> None:
        if self._refresh is None or self._refresh.done():
            self._refresh = asyncio.create_task(self._fetch_alone())

    async def _fetch_alone(self) -> None:
        async with self._lock:
            if self._age() > self._fresh_seconds:
                await self._fetch()

    async def _fetch(self) -> None:
        """Replaces the set, or leaves it as it is."""
        self._tries += 1
        self._spared = max(0.0, self._refetches() - 1)
        self._tried_at = self._now()
        try:
            answer = await self._http.get(self._url, timeout=_FETCH_TIMEOUT, follow_redirects=False)
            answer.raise_for_status()
            keys = self._read(_entries(answer.content))
        except (httpx.HTTPError, ValueError) as error:
            log.warning("jwks.unavailable", what=self._what, error=type(error).__name__)
            return
        self._keys = keys
        self._fetched_at = self._now()


def _entries(content: bytes) -> Entries:
    """Raises: ValueError."""
    try:
        document = msgspec.json.decode(content)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("no JWK set")  # noqa: TRY004  of what a vendor sent
    return [entry for entry in entries if isinstance(entry, dict)]
