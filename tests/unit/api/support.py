"""A client of an application that was not started: no pool is opened."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import httpx
from litestar.types import ControllerRouterHandler

from api.app import create_app
from core.settings import Settings


@contextlib.asynccontextmanager
async def offline_client(
    settings: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    routes: Sequence[ControllerRouterHandler] = (),
    peer: str = "203.0.113.7",
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings, transport=transport, extra_routes=routes)
    resources = app.state.resources
    wire = httpx.ASGITransport(cast("Any", app), client=(peer, 50_000))
    async with httpx.AsyncClient(transport=wire, base_url="http://api") as client:
        yield client
    await resources.tokens.close()
    await resources.http.aclose()
    await resources.redis.aclose()
