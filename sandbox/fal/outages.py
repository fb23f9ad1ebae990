"""What is wrong with fal's routes, from now until it is over: for a key, an account or a request.

A fault of `faults` is drawn at the submit. An outage may begin in the middle of a request's life:
it is ordered over the control route, or a request brings it along (`of_request`), and it meets
whichever answers match it. `after` answers are let pass first; it ends after `times` answers, or
`seconds` after the first that it met, or when it is healed.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from sandbox.fal.faults import FaultKind, Faults

Args = Mapping[str, Any]


class Route(StrEnum):
    SUBMIT = "submit"
    STATUS = "status"
    RESULT = "result"
    CANCEL = "cancel"
    FILE = "file"
    UPLOAD = "upload"


class OutageKind(StrEnum):
    UNAUTHORIZED = "unauthorized"
    LOCKED = "locked"
    RATE_LIMITED = "rate_limited"  # retry_after
    NOT_FOUND = "not_found"
    PATH_NOT_FOUND = "path_not_found"
    SERVER_ERROR = "server_error"  # status=503, html=false
    SILENT = "silent"  # seconds=3600, then the answer
    # of files only
    TRUNCATED = "truncated"  # half of the bytes, as if they were all
    BROKEN = "broken"  # half of the bytes, then the end of the connection
    HTML_PAGE = "html_page"  # 200 and a page in the file's place
    DRIP = "drip"  # bytes_per_second=1


class Outage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`routes` empty: all. `key` is the part of a key before its colon."""

    kind: OutageKind
    routes: tuple[Route, ...] = ()
    account: str | None = None
    key: str | None = None
    request_id: str | None = None
    after: int = 0
    times: int | None = None
    seconds: float | None = None
    args: dict[str, Any] = {}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request to a route, as far as it is known."""

    route: Route
    account: str | None = None
    key: str | None = None
    request_id: str | None = None


class Ongoing:
    """An outage and what it has done so far."""

    def __init__(self, outage: Outage) -> None:
        self.id = str(uuid.uuid4())
        self.outage = outage
        self.seen = 0
        self.met = 0
        self._first_at: float | None = None
        self._healed = asyncio.Event()

    @property
    def kind(self) -> OutageKind:
        return self.outage.kind

    @property
    def args(self) -> Args:
        return self.outage.args

    def meets(self, asked: Asked) -> bool:
        """Whether it decides this answer. Called once for each request."""
        if not self._is_about(asked) or self._is_over():
            return False
        self.seen += 1
        if self.seen <= self.outage.after:
            return False
        if self._first_at is None:
            self._first_at = time.monotonic()
        self.met += 1
        return True

    def _is_about(self, asked: Asked) -> bool:
        outage = self.outage
        if outage.routes and asked.route not in outage.routes:
            return False
        wanted = (outage.account, outage.key, outage.request_id)
        found = (asked.account, asked.key, asked.request_id)
        return all(
            value is None or value == given for value, given in zip(wanted, found, strict=True)
        )

    def _is_over(self) -> bool:
        outage = self.outage
        if self._healed.is_set() or (outage.times is not None and self.met >= outage.times):
            return True
        if outage.seconds is None or self._first_at is None:
            return False
        return time.monotonic() - self._first_at >= outage.seconds

    async def be_silent(self) -> None:
        """Until it is healed, or for its seconds."""
        seconds = float(self.args.get("seconds", 3600.0))
        try:
            async with asyncio.timeout(seconds):
                await self._healed.wait()
        except TimeoutError:
            return

    def heal(self) -> None:
        self._healed.set()

    def describe(self) -> dict[str, Any]:
        return {"id": self.id, "outage": self.outage, "seen": self.seen, "met": self.met}


class Outages:
    """Those that are ordered over the control route."""

    def __init__(self) -> None:
        self._ongoing: dict[str, Ongoing] = {}

    def begin(self, outage: Outage) -> Ongoing:
        ongoing = Ongoing(outage)
        self._ongoing[ongoing.id] = ongoing
        return ongoing

    def heal(self, outage_id: str) -> bool:
        ongoing = self._ongoing.pop(outage_id, None)
        if ongoing is not None:
            ongoing.heal()
        return ongoing is not None

    def clear(self) -> None:
        for ongoing in self._ongoing.values():
            ongoing.heal()
        self._ongoing.clear()

    def describe(self) -> list[dict[str, Any]]:
        return [ongoing.describe() for ongoing in self._ongoing.values()]

    def meeting(self, asked: Asked, of_request: Iterable[Ongoing] = ()) -> Ongoing | None:
        """The first that decides this answer."""
        for ongoing in (*self._ongoing.values(), *of_request):
            if ongoing.meets(asked):
                return ongoing
        return None


# --- faults of one request that show after its submit --------------------------------------------


def of_request(faults: Faults) -> list[Ongoing]:
    return [
        Ongoing(build(args))
        for kind, args in faults.items()
        if (build := _OF_REQUEST.get(kind)) is not None
    ]


_LOOKS = (Route.STATUS, Route.RESULT, Route.CANCEL)


def _some(
    kind: OutageKind, *routes: Route, times: int | None = 1, **defaults: Any
) -> Callable[[Args], Outage]:
    def build(args: Args) -> Outage:
        return Outage(
            kind=kind,
            routes=routes,
            after=int(args.get("after", 0)),
            times=args.get("count", times),
            seconds=args.get("for_seconds"),
            args={**defaults, **args},
        )

    return build


def _away(args: Args) -> Outage:
    return Outage(
        kind=OutageKind.SERVER_ERROR,
        routes=(Route.FILE,),
        times=args.get("count"),
        seconds=None if "count" in args else float(args.get("seconds", 7.0)),
        args={"html": True, **args},
    )


_OF_REQUEST: Mapping[FaultKind, Callable[[Args], Outage]] = {
    FaultKind.STATUS_5XX: _some(OutageKind.SERVER_ERROR, Route.STATUS, times=2, status=500),
    FaultKind.RESULT_5XX: _some(OutageKind.SERVER_ERROR, Route.RESULT, times=2, status=500),
    FaultKind.STATUS_404: _some(OutageKind.NOT_FOUND, Route.STATUS),
    FaultKind.RESULT_404: _some(OutageKind.NOT_FOUND, Route.RESULT),
    FaultKind.LOOKS_REFUSED: _some(OutageKind.LOCKED, *_LOOKS, times=2),
    FaultKind.LOOKS_LIMITED: _some(OutageKind.RATE_LIMITED, *_LOOKS, times=2),
    FaultKind.LOOKS_SILENT: _some(OutageKind.SILENT, *_LOOKS, seconds=20.0),
    FaultKind.FILE_AWAY: _away,
    FaultKind.FILE_404: _some(OutageKind.NOT_FOUND, Route.FILE),
    FaultKind.FILE_TRUNCATED: _some(OutageKind.TRUNCATED, Route.FILE),
    FaultKind.FILE_BROKEN: _some(OutageKind.BROKEN, Route.FILE),
    FaultKind.FILE_HTML: _some(OutageKind.HTML_PAGE, Route.FILE),
    FaultKind.FILE_DRIP: _some(OutageKind.DRIP, Route.FILE),
}
