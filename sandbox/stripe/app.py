"""The Stripe sandbox as one ASGI application: API, pages, control."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
from litestar import Litestar

from sandbox.stripe import checkout
from sandbox.stripe.api_routes import api
from sandbox.stripe.config import StripeSandboxConfig
from sandbox.stripe.control import api_error, invalid_body
from sandbox.stripe.control_routes import CONTROL_ROUTES
from sandbox.stripe.engine import Sandbox
from sandbox.stripe.errors import ApiError
from sandbox.stripe.page_routes import PAGE_ROUTES

SWEEP_SECONDS = 1.0


def create_app(config: StripeSandboxConfig | None = None) -> Litestar:
    """`app.state.sandbox` is the running sandbox.

    It needs no start, only an event loop: sessions then expire with the next request. Callers
    that do not run the ASGI lifespan close it with `await app.state.sandbox.aclose()`.
    """
    app = Litestar(
        route_handlers=[*CONTROL_ROUTES, *PAGE_ROUTES, api],
        lifespan=[_running],
        exception_handlers={ApiError: api_error, msgspec.DecodeError: invalid_body},
        openapi_config=None,
        logging_config=None,
    )
    configure(app, config or StripeSandboxConfig())
    return app


def configure(app: Litestar, config: StripeSandboxConfig) -> None:
    """A sandbox with what `config.state_dir` holds, behind routes that are built once."""
    app.state.sandbox = Sandbox(config)


@contextlib.asynccontextmanager
async def _running(app: Litestar) -> AsyncIterator[None]:
    sandbox: Sandbox = app.state.sandbox
    sandbox.webhooks.resume()
    sweeper = asyncio.get_running_loop().create_task(_sweep_for_ever(sandbox))
    try:
        yield
    finally:
        sweeper.cancel()
        await asyncio.gather(sweeper, return_exceptions=True)
        await sandbox.aclose()


async def _sweep_for_ever(sandbox: Sandbox) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        checkout.sweep(sandbox, sandbox.config.base_url or "")
        sandbox.store.flush()
