"""One till for the tests of a module: each brings people of its own. What looks at all orders
takes a till of its own."""

import secrets
from collections.abc import AsyncIterator, Callable

import pytest

from core.settings import Settings
from sandbox.stack import EmbeddedValkey
from tests.integration.payments_api.till import Shopper, Till, opened_till
from tests.support.database import cloned_database
from tests.support.run import Run
from tests.support.settings import build_settings
from tests.support.shop import shop_settings


@pytest.fixture(scope="module")
async def till(test_run: Run, _valkey: EmbeddedValkey) -> AsyncIterator[Till]:
    with cloned_database(test_run) as database:
        settings = build_settings(
            database_url=database.api_url,
            worker_database_url=database.worker_url,
            redis_url=_valkey.url(),
            redis_prefix=f"till-{secrets.token_hex(4)}",
            rate_limits_enabled=False,
            **shop_settings(),
        )
        async with opened_till(settings, database) as opened:
            yield opened
        assert database.drift() == []


@pytest.fixture
async def own_till(database: object, make_settings: Callable[..., Settings]) -> AsyncIterator[Till]:
    async with opened_till(
        make_settings(rate_limits_enabled=False, **shop_settings()),
        database,  # type: ignore[arg-type]
    ) as opened:
        yield opened


@pytest.fixture
def ada(till: Till) -> Shopper:
    return till.shopper()
