"""Answers that a fault rule sets in place of the protocol's own."""

from collections.abc import Callable, Mapping
from typing import Any

from litestar import Response

from sandbox.fal.errors import FLAT_TYPE_OF_STATUS, nginx_page
from sandbox.fal.faults import FaultKind, Faults
from sandbox.fal.outages import Ongoing, OutageKind
from sandbox.fal.replies import page, path_not_found, reply, unauthorized

Args = Mapping[str, Any]
Reply = Response[bytes]

LOCKED_DETAIL = (
    "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing."
)


def refuse(endpoint_id: str, faults: Faults) -> Reply | None:
    """The answer to a submit that is not accepted."""
    if FaultKind.UNAUTHORIZED in faults:
        return unauthorized(endpoint_id)
    for kind, args in faults.items():
        build = _REFUSALS.get(kind)
        if build is not None:
            return build(args)
    return None


async def answer_of(ongoing: Ongoing, asked: str) -> Reply | None:
    """The answer of a route while an outage lasts; None: its own one, after the silence.

    `asked` is the endpoint or path. The kinds of files are answered by the file's route.
    """
    if ongoing.kind is OutageKind.SILENT:
        await ongoing.be_silent()
        return None
    build = _OUTAGES.get(ongoing.kind)
    return None if build is None else build(ongoing.args, asked)


def flat(status: int, body: Any = None) -> Reply:
    fallback = "internal_error" if status >= 500 else "bad_request"
    error_type = FLAT_TYPE_OF_STATUS.get(status, fallback)
    if body is None:
        detail = error_type.replace("_", " ").capitalize()
        body = {"detail": detail, "error_type": error_type}
    return reply(status, body, headers={"x-fal-error-type": error_type})


def transient(args: Args) -> Reply:
    status = int(args.get("status", 500))
    return page(status, nginx_page(status)) if args.get("html") else flat(status)


def _locked(_: Args) -> Reply:
    return reply(403, {"detail": LOCKED_DETAIL})


def _ingress_page(args: Args) -> Reply:
    status = int(args.get("status", 503))
    return page(status, nginx_page(status))


def _too_many(args: Args) -> Reply:
    error_type = "concurrent_requests_limit"
    headers = {"x-fal-error-type": error_type, "x-fal-needs-retry": "1"}
    if "retry_after" in args:
        headers["retry-after"] = str(args["retry_after"])
    body = {"detail": "Concurrent requests limit reached", "error_type": error_type}
    return reply(429, body, headers=headers)


_REFUSALS: Mapping[FaultKind, Callable[[Args], Reply]] = {
    FaultKind.SUBMIT_4XX: lambda args: flat(int(args.get("status", 400)), args.get("body")),
    FaultKind.SUBMIT_5XX: lambda args: flat(int(args.get("status", 500)), args.get("body")),
    FaultKind.SUBMIT_HTML_ERROR: _ingress_page,
    FaultKind.LOCKED_ACCOUNT: _locked,
    FaultKind.RATE_LIMITED: _too_many,
}

_OUTAGES: Mapping[OutageKind, Callable[[Args, str], Reply]] = {
    OutageKind.UNAUTHORIZED: lambda _, asked: unauthorized(asked),
    OutageKind.LOCKED: lambda args, _: _locked(args),
    OutageKind.RATE_LIMITED: lambda args, _: _too_many(args),
    OutageKind.NOT_FOUND: lambda _, __: reply(404, {"status": "NOT_FOUND"}),
    OutageKind.PATH_NOT_FOUND: lambda _, asked: path_not_found(asked),
    OutageKind.SERVER_ERROR: lambda args, _: transient({"status": 503, **args}),
}
