from collections.abc import AsyncIterator

import httpx
import pytest

from sandbox.fal.app import create_app
from sandbox.fal.config import FalSandboxConfig
from tests.integration.fal_client.support import SECRET, Fal


@pytest.fixture
async def fal() -> AsyncIterator[Fal]:
    """A clean stand-in that returns prerendered images after 10 ms."""
    config = FalSandboxConfig(
        accounts={SECRET: "main"}, account_limit=10, model_seconds=0.01, prerendered=True
    )
    made = Fal(create_app(config))
    yield made
    await made.aclose()


@pytest.fixture
async def plain_http() -> AsyncIterator[httpx.AsyncClient]:
    """A client over real sockets, with no defaults that the caller could lean on."""
    async with httpx.AsyncClient() as client:
        yield client
