"""Applications that are built once and opened by one test after the other.

Building the routes of one takes up to a quarter of a second, and opening it a few milliseconds:
each test process keeps what it has built and gives it a new configuration for the next test.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Generic, TypeVar

from litestar import Litestar

from sandbox.fal import app as fal
from sandbox.fal.config import FalSandboxConfig
from sandbox.stripe import app as stripe
from sandbox.stripe.config import StripeSandboxConfig
from sandbox.supabase import app as supabase
from sandbox.supabase.config import SupabaseConfig

Config = TypeVar("Config")


class Applications(Generic[Config]):
    """As many of one kind as were ever open at the same time."""

    def __init__(
        self, build: Callable[[Config], Litestar], configure: Callable[[Litestar, Config], None]
    ) -> None:
        self._build = build
        self._configure = configure
        self._closed: list[Litestar] = []

    @contextlib.contextmanager
    def borrowed(self, config: Config) -> Iterator[Litestar]:
        """One that nobody else has, not yet started."""
        if self._closed:
            app = self._closed.pop()
            self._configure(app, config)
        else:
            app = self._build(config)
        yield app
        self._closed.append(app)  # not after an error: something of it may still be open


_fal = Applications(fal.create_app, fal.configure)
_stripe = Applications(stripe.create_app, stripe.configure)
_supabase = Applications(supabase.create_app, supabase.configure)


@contextlib.asynccontextmanager
async def opened_fal(config: FalSandboxConfig) -> AsyncIterator[Litestar]:
    """fal's stand-in in the test's own process, for `httpx.ASGITransport`."""
    with _fal.borrowed(config) as app:
        try:
            yield app
        finally:
            await app.state.engine.aclose()


@contextlib.asynccontextmanager
async def opened_stripe(config: StripeSandboxConfig) -> AsyncIterator[Litestar]:
    with _stripe.borrowed(config) as app:
        try:
            yield app
        finally:
            await app.state.sandbox.aclose()


@contextlib.asynccontextmanager
async def opened_supabase(config: SupabaseConfig) -> AsyncIterator[Litestar]:
    """What was sent is in `app.state.mailbox`."""
    with _supabase.borrowed(config) as app:
        async with app.lifespan():
            yield app
