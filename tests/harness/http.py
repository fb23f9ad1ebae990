"""The application in the test's own process, started and stopped as a server would."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import httpx
from litestar.types import ControllerRouterHandler

from api.app import create_app
from core.settings import Settings


@contextlib.asynccontextmanager
async def api_client(
    settings: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    extra_routes: Sequence[ControllerRouterHandler] = (),
    client_ip: str = "203.0.113.7",
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the whole application. `transport` answers for the outside services."""
    app = create_app(settings, transport=transport, extra_routes=extra_routes)
    wire = httpx.ASGITransport(cast("Any", app), client=(client_ip, 50_000))
    async with app.lifespan(), httpx.AsyncClient(transport=wire, base_url="http://api") as client:
        yield client
