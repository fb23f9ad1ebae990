"""One harness for the tests of a module: each brings people of its own. A test that looks at all
orders takes a harness of its own."""

import secrets
from collections.abc import AsyncIterator, Callable

import pytest

from core.settings import Settings
from sandbox.stack import EmbeddedValkey
from tests.harness.database import cloned_database
from tests.harness.payments import payments_settings
from tests.harness.payments_api import Buyer, PaymentsApiHarness, set_up_payments_api
from tests.harness.run import Run
from tests.harness.settings import build_settings


@pytest.fixture(scope="module")
async def payments_api(test_run: Run, _valkey: EmbeddedValkey) -> AsyncIterator[PaymentsApiHarness]:
    with cloned_database(test_run) as database:
        settings = build_settings(
            database_url=database.api_url,
            worker_database_url=database.worker_url,
            redis_url=_valkey.url(),
            redis_prefix=f"payments_api-{secrets.token_hex(4)}",
            rate_limits_enabled=False,
            **payments_settings(),
        )
        async with set_up_payments_api(settings, database) as opened:
            yield opened
        assert database.drift() == []


@pytest.fixture
async def own_payments_api(
    database: object, make_settings: Callable[..., Settings]
) -> AsyncIterator[PaymentsApiHarness]:
    async with set_up_payments_api(
        make_settings(rate_limits_enabled=False, **payments_settings()),
        database,  # type: ignore[arg-type]
    ) as opened:
        yield opened


@pytest.fixture
def ada(payments_api: PaymentsApiHarness) -> Buyer:
    return payments_api.buyer()
