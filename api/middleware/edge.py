"""The outermost layer: request id, client address, security headers, metrics, one log line.

It wraps the whole application, so that a 404 or a crash has an id and a line too. It must stay
cheap: it runs for every request.
"""

import re
import time

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from api.identity import RequestContext
from api.metrics import HttpMetrics
from api.middleware.clients import ClientAddress
from core.ids import new_id

log = structlog.get_logger()

_REQUEST_ID = re.compile(rb"^[A-Za-z0-9._-]{8,64}$")
_API_POLICY = b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
QUIET_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
NO_ROUTE = "(none)"


class Edge:
    def __init__(
        self, app: ASGIApp, *, clients: ClientAddress, metrics: HttpMetrics, https: bool
    ) -> None:
        self._app = app
        self._clients = clients
        self._metrics = metrics
        self._fixed = [
            (b"x-content-type-options", b"nosniff"),
            (b"x-frame-options", b"DENY"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"server", b"jewelshot"),  # else the server writes its own name
        ]
        if https:
            self._fixed.append((b"strict-transport-security", b"max-age=63072000"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        context = RequestContext(request_id=_request_id(scope), client_ip=self._clients.of(scope))
        scope["state"]["context"] = context
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = list(message.get("headers", ()))
                message["headers"] = given + self._headers(given, context)
            await send(message)

        self._metrics.started()
        bound = structlog.contextvars.bind_contextvars(request_id=context.request_id)
        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self._finish(scope, context, status)
            structlog.contextvars.reset_contextvars(**bound)

    def _headers(
        self, given: list[tuple[bytes, bytes]], context: RequestContext
    ) -> list[tuple[bytes, bytes]]:
        present = {name.lower() for name, _ in given}
        added = [(b"x-request-id", context.request_id.encode()), *self._fixed, *context.headers]
        if b"content-security-policy" not in present:
            added.append((b"content-security-policy", _API_POLICY))
        if b"cache-control" not in present:
            added.append((b"cache-control", b"no-store"))
        return added

    def _finish(self, scope: HTTPScope, context: RequestContext, status: int) -> None:
        seconds = time.perf_counter() - context.started
        route = scope.get("path_template") or NO_ROUTE
        method = scope["method"]
        self._metrics.finished(method, route, status, seconds)
        if route in QUIET_PATHS and status < 400:
            return
        log.info(
            "http.request",
            method=method,
            route=route,
            status=status,
            duration_ms=round(seconds * 1000, 2),
            user_id=str(context.claims.user_id) if context.claims else None,
            actor=context.actor,
            client_ip=context.client_ip,
        )


def _request_id(scope: Scope) -> str:
    """The caller's X-Request-ID if it is a sane one, else our own."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.match(value):
            return value.decode("ascii")
    return new_id().hex
