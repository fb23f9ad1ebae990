"""Builders for the answers of every route, and readers of a request."""

from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.datastructures import State

from sandbox.stripe.config import API_VERSION
from sandbox.stripe.engine import Sandbox

AnyRequest = Request[Any, Any, State]
Reply = Response[bytes]

# Read by `in_process`, where there is no connection to drop.
DROPPED = "x-sandbox-dropped"
# Nothing from elsewhere. `form-action` stays open: what a form answers leads to the shop.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


def sandbox_of(request: AnyRequest) -> Sandbox:
    sandbox: Sandbox = request.app.state.sandbox
    return sandbox


def base_url_of(request: AnyRequest) -> str:
    configured = sandbox_of(request).config.base_url
    return configured or f"{request.scope['scheme']}://{request.headers.get('host', 'localhost')}"


def encode(body: Any) -> bytes:
    """Indented as Stripe's, which makes it readable with curl."""
    return msgspec.json.format(msgspec.json.encode(body), indent=2)


def reply(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
    return Response(
        body,
        status_code=status,
        media_type="application/json",
        headers={"stripe-version": API_VERSION, **(headers or {})},
    )


def page(html: str, status: int = 200) -> Reply:
    return Response(
        html.encode(),
        status_code=status,
        media_type="text/html; charset=utf-8",
        headers={
            "cache-control": "no-store",
            "content-security-policy": _POLICY,
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        },
    )


def see_other(url: str) -> Reply:
    return Response(b"", status_code=303, headers={"location": url, "cache-control": "no-store"})
