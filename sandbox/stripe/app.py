"""The Stripe sandbox as one ASGI application: API, pages, control."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
from litestar import Litestar
from litestar.datastructures import State

from sandbox.stripe import checkout
from sandbox.stripe.api_routes import api
from sandbox.stripe.config import StripeSandboxConfig
from sandbox.stripe.control import misunderstood, refused
from sandbox.stripe.control_routes import CONTROL_ROUTES
from sandbox.stripe.engine import Sandbox
from sandbox.stripe.errors import ApiError
from sandbox.stripe.page_routes import PAGE_ROUTES

SWEEP_SECONDS = 1.0


def create_app(config: StripeSandboxConfig | None = None) -> Litestar:
    """`app.state.sandbox` is the running sandbox.

    It needs no start, only an event loop: sessions then expire with the next request. Whoever
    does not run the ASGI lifespan closes it with `await app.state.sandbox.aclose()`.
    """
    sandbox = Sandbox(config or StripeSandboxConfig())

    async def sweep_for_ever() -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            checkout.sweep(sandbox, sandbox.config.base_url or "")
            sandbox.store.flush()

    @contextlib.asynccontextmanager
    async def running(_: Litestar) -> AsyncIterator[None]:
        sandbox.webhooks.resume()
        sweeper = asyncio.get_running_loop().create_task(sweep_for_ever())
        try:
            yield
        finally:
            sweeper.cancel()
            await asyncio.gather(sweeper, return_exceptions=True)
            await sandbox.aclose()

    return Litestar(
        route_handlers=[*CONTROL_ROUTES, *PAGE_ROUTES, api],
        state=State({"sandbox": sandbox}),
        lifespan=[running],
        exception_handlers={ApiError: refused, msgspec.DecodeError: misunderstood},
        openapi_config=None,
        logging_config=None,
    )
