"""The application in the test's own process, started and stopped as a server would.

Building its routes takes a quarter of a second: each test process keeps the applications that it
has built, and opens them again with the settings of the next test.
"""

import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, cast

import httpx
from litestar import Litestar
from litestar.types import ControllerRouterHandler

from api.app import configure, create_app, install
from core.settings import Settings

CLIENT_IP = "203.0.113.7"
# By the routes that are added: who adds some keeps them at the top of a module.
_closed: defaultdict[tuple[ControllerRouterHandler, ...], list[Litestar]] = defaultdict(list)


@contextlib.contextmanager
def borrowed_app(
    settings: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    extra_routes: Sequence[ControllerRouterHandler] = (),
) -> Iterator[Litestar]:
    """An application that nobody else has open, not yet started."""
    closed = _closed[tuple(extra_routes)]
    app = closed.pop() if closed else create_app(settings, extra_routes=extra_routes)
    configure(app, settings, transport=transport)
    yield app
    closed.append(app)  # not after an error: its resources may still be there


@contextlib.asynccontextmanager
async def opened_app(
    settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[Litestar]:
    """The started application. `transport` answers for the outside services."""
    with borrowed_app(settings, transport=transport) as app:
        async with app.lifespan():
            yield app


@contextlib.asynccontextmanager
async def api_client(
    settings: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    client_ip: str = CLIENT_IP,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the started application."""
    async with (
        opened_app(settings, transport=transport) as app,
        client_of(app, client_ip=client_ip) as client,
    ):
        yield client


@contextlib.asynccontextmanager
async def offline_client(
    settings: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    routes: Sequence[ControllerRouterHandler] = (),
    client_ip: str = CLIENT_IP,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application that was not started: no pool is opened."""
    with borrowed_app(settings, transport=transport, extra_routes=routes) as app:
        resources = install(app)
        async with client_of(app, client_ip=client_ip) as client:
            yield client
        await resources.tokens.close()
        await resources.http.aclose()
        await resources.redis.aclose()


def client_of(app: Litestar, *, client_ip: str = CLIENT_IP) -> httpx.AsyncClient:
    wire = httpx.ASGITransport(cast("Any", app), client=(client_ip, 50_000))
    return httpx.AsyncClient(transport=wire, base_url="http://api")
