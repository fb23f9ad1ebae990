"""The application: routes, guards and middleware, and how they are opened with a set of resources.

Routes are built once and know no settings; whatever depends on them is built at startup and read
from `app.state.resources` by each request. Layers from the outside in: Edge (id, log line,
headers), Cors, Head, Bodies (their pace), Litestar's routing, Gate (caller and rate limits), the
handler.
"""

import contextlib
import inspect
import os
from collections.abc import AsyncIterator, Sequence

import httpx
from litestar import Litestar
from litestar.routes import HTTPRoute
from litestar.types import ControllerRouterHandler

from api import identity, resources
from api.exception_handlers import HANDLERS
from api.http import once, pages, wait
from api.http.requests import ApiRequest
from api.middleware.bodies import Bodies
from api.middleware.cors import Cors
from api.middleware.edge import Edge
from api.middleware.gate import Gate
from api.middleware.head import Head
from api.openapi import StrictStructs, docs_router, openapi_config
from api.resources import Resources, build_resources
from api.routes import ROUTERS
from core import log
from core.settings import Service, Settings, load_settings

_WHO_ASKS = {"user", "admin"}
JSON_BODY_BYTES_MAX = 256 * 1024
_DEPENDENCIES = {
    **resources.DEPENDENCIES,
    **identity.DEPENDENCIES,
    **once.DEPENDENCIES,
    **pages.DEPENDENCIES,
    **wait.DEPENDENCIES,
}


def create_app(
    settings: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    extra_routes: Sequence[ControllerRouterHandler] = (),
) -> Litestar:
    """The whole application, ready to be opened. `transport` and `extra_routes` are for tests."""
    app = Litestar(
        route_handlers=[docs_router(), *ROUTERS, *extra_routes],
        dependencies=_DEPENDENCIES,
        request_class=ApiRequest,
        middleware=[Gate],
        exception_handlers=HANDLERS,
        openapi_config=openapi_config(settings),
        plugins=[StrictStructs()],
        lifespan=[_running],
        request_max_body_size=JSON_BODY_BYTES_MAX,
        logging_config=None,
        debug=False,
    )
    _resolve_in_turn(app)
    _allow_all_methods(app)
    app.state.routing = app.asgi_handler
    configure(app, settings, transport=transport)
    return app


def _resolve_in_turn(app: Litestar) -> None:
    """Resolve a handler's dependencies one after the other, who asks before all others.

    The framework starts a task for each. Ours have nothing to wait for, so that costs up to 0.1 ms
    a request (measured 2026-11), and the first that refuses would cancel the others.
    """
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for _, model in route.route_handler_map.values():
                model.dependency_batches = [
                    {dependency}
                    for batch in model.dependency_batches
                    for dependency in sorted(batch, key=lambda each: each.key not in _WHO_ASKS)
                ]


def _allow_all_methods(app: Litestar) -> None:
    """OPTIONS names every method of a path. The framework's handler remembers the route as it was
    when the first of its handlers was registered."""
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            handler, _ = route.route_handler_map["OPTIONS"]
            inspect.getclosurevars(handler.fn).nonlocals["self"].methods = route.methods


def configure(
    app: Litestar, settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None
) -> None:
    """Sets what `app` runs with from its next start on. It may be opened many times, in turn."""
    app.state.settings = settings
    app.state.transport = transport


def install(app: Litestar) -> Resources:
    """Build all that a request needs from `app.state.settings`; nothing is connected yet."""
    settings: Settings = app.state.settings
    built = build_resources(settings, transport=app.state.transport)
    app.state.resources = built
    app.asgi_handler = Edge(
        Cors(Head(Bodies(app.state.routing)), origins=settings.cors_allowed_origins),
        clients=built.clients,
        metrics=built.metrics,
        https=settings.public_base_url.startswith("https://"),
    )
    return built


@contextlib.asynccontextmanager
async def _running(app: Litestar) -> AsyncIterator[None]:
    opened = install(app)
    try:
        await opened.open()
        yield
    finally:
        await opened.close()
        del app.state.resources


def create_app_from_environment() -> Litestar:
    """What the server's processes call."""
    settings = load_settings(service=Service.API)
    log.configure(
        level=settings.log_level, json=settings.is_production, process=f"api-{os.getpid()}"
    )
    return create_app(settings)
