"""A shop for each test: see tests/support/shop.py."""

import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from core.pixels.pool import PixelPool
from core.settings import Settings
from tests.support.database import TestDatabase
from tests.support.shop import Customer, Shop, opened_shop, shop_settings

OpenShop = Callable[..., "contextlib.AbstractAsyncContextManager[Shop]"]


@pytest.fixture
def open_shop(database: TestDatabase, make_settings: Callable[..., Settings]) -> OpenShop:
    """Keyword arguments are settings."""

    @contextlib.asynccontextmanager
    async def open_it(**settings: object) -> AsyncIterator[Shop]:
        ours = make_settings(**(shop_settings() | settings))
        async with opened_shop(ours, database, PixelPool(1)) as shop:
            yield shop

    return open_it


@pytest.fixture
async def shop(open_shop: OpenShop) -> AsyncIterator[Shop]:
    async with open_shop() as opened:
        yield opened


@pytest.fixture
async def ada(shop: Shop) -> Customer:
    return shop.customer()
