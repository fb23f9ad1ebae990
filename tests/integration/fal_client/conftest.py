from collections.abc import AsyncIterator

import httpx
import pytest

from sandbox.fal.config import FalSandboxConfig
from tests.harness.applications import opened_fal
from tests.integration.fal_client.support import SECRET, Fal


@pytest.fixture
async def fal() -> AsyncIterator[Fal]:
    """A clean stand-in that returns prerendered images after 10 ms."""
    config = FalSandboxConfig(
        accounts={SECRET: "main"}, account_limit=10, model_seconds=0.01, prerendered=True
    )
    async with opened_fal(config) as app:
        made = Fal(app)
        yield made
        await made.aclose()


@pytest.fixture
async def plain_http() -> AsyncIterator[httpx.AsyncClient]:
    """A client over real sockets, with no defaults that the caller could lean on."""
    async with httpx.AsyncClient() as client:
        yield client
