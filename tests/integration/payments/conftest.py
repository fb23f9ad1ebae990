"""A payments for each test: see tests/harness/payments.py."""

import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from core.pixels.pool import PixelPool
from core.settings import Settings
from tests.harness.database import TestDatabase
from tests.harness.payments import DirectBuyer, PaymentsHarness, payments_settings, set_up_payments

OpenPayments = Callable[..., "contextlib.AbstractAsyncContextManager[PaymentsHarness]"]


@pytest.fixture
def open_payments(database: TestDatabase, make_settings: Callable[..., Settings]) -> OpenPayments:
    """Keyword arguments are settings."""

    @contextlib.asynccontextmanager
    async def open_it(**settings: object) -> AsyncIterator[PaymentsHarness]:
        ours = make_settings(**(payments_settings() | settings))
        async with set_up_payments(ours, database, PixelPool(1)) as payments:
            yield payments

    return open_it


@pytest.fixture
async def payments(open_payments: OpenPayments) -> AsyncIterator[PaymentsHarness]:
    async with open_payments() as opened:
        yield opened


@pytest.fixture
async def ada(payments: PaymentsHarness) -> DirectBuyer:
    return payments.buyer()
