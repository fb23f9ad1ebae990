"""The application: routes, guards and middleware around one set of resources.

Layers from the outside in: Edge (id, log line, headers), Cors, Drain (unread bodies), Litestar's
routing, Gate (caller and rate limits), the handler.
"""

import os
from collections.abc import Sequence

import httpx
from litestar import Litestar
from litestar.datastructures import State
from litestar.middleware import DefineMiddleware
from litestar.types import ControllerRouterHandler

from api import identity as deps
from api.exception_handlers import ProblemHandlers
from api.metrics import HttpMetrics
from api.middleware.clients import ClientAddress
from api.middleware.cors import Cors
from api.middleware.drain import Drain
from api.middleware.edge import Edge
from api.middleware.gate import Gate
from api.openapi import StrictStructs, docs_router, openapi_config
from api.resources import Resources, build_resources
from api.routes import ROUTERS
from core import log
from core.ratelimit import parse_limit
from core.settings import Settings, load_settings

JSON_BODY_BYTES_MAX = 256 * 1024
# Every open tab refreshes about once an hour; a whole office may share one address.
REFRESH_LIMIT = parse_limit("refresh", "150/5 minutes")
# Each try counts, right or wrong, before the code is looked at: many at once get no further.
CODES_LIMIT = parse_limit("codes", "10/hour")
# What a person who buys needs in an hour; who tries out stolen cards wants more.
CHECKOUT_LIMIT = parse_limit("checkout", "20/hour")


def create_app(
    settings: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    extra_routes: Sequence[ControllerRouterHandler] = (),
) -> Litestar:
    """The whole application. `transport` and `extra_routes` are for tests."""
    resources = build_resources(settings, transport=transport)
    metrics = HttpMetrics()
    app = Litestar(
        route_handlers=[docs_router(), *ROUTERS, *extra_routes],
        dependencies=deps.dependencies(resources),
        middleware=[_gate(resources)],
        exception_handlers=ProblemHandlers(settings.public_base_url).handlers,
        openapi_config=openapi_config(settings),
        plugins=[StrictStructs()],
        state=State(
            {
                "resources": resources,
                "metrics": metrics,
                "internal_door": deps.InternalDoor(settings),
            }
        ),
        on_startup=[resources.open],
        on_shutdown=[resources.close],
        request_max_body_size=JSON_BODY_BYTES_MAX,
        logging_config=None,
        debug=False,
    )
    app.asgi_handler = Edge(
        Cors(Drain(app.asgi_handler), origins=settings.cors_allowed_origins),
        clients=ClientAddress(settings.trusted_proxies),
        metrics=metrics,
        https=settings.public_base_url.startswith("https://"),
    )
    return app


def _gate(resources: Resources) -> DefineMiddleware:
    settings = resources.settings
    return DefineMiddleware(
        Gate,
        tokens=resources.tokens,
        limiter=resources.limiter if settings.rate_limits_enabled else None,
        limits={
            "user": parse_limit("user", settings.rate_limit_user),
            "ip": parse_limit("ip", settings.rate_limit_ip),
            "auth": parse_limit("auth", settings.rate_limit_auth),
            "refresh": REFRESH_LIMIT,
            "codes": CODES_LIMIT,
            "checkout": CHECKOUT_LIMIT,
        },
    )


def create_app_from_environment() -> Litestar:
    """What the server's processes call."""
    settings = load_settings()
    log.configure(
        level=settings.log_level, json=settings.is_production, process=f"api-{os.getpid()}"
    )
    return create_app(settings)
