"""One product for all acceptance tests of a process; each test ends with clean books."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from sandbox.stack.product import Product
from tests.acceptance.shop import FAL_ARGUMENTS, SETTINGS, Shop
from tests.support.run import Run


@pytest.fixture(scope="session")
def open_shop(test_run: Run) -> Iterator[Shop]:
    folder = test_run.new_folder("acceptance")
    # Workers start all the time here: compiled once, they start in half the time.
    compiled = {"PYTHONPYCACHEPREFIX": str(folder / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
    product = Product(
        folder,
        durable=False,
        temporary=True,
        settings=SETTINGS | compiled,
        fal_arguments=FAL_ARGUMENTS,
        workers=0,
    )
    with product:
        shop = Shop(product)
        asyncio.run(shop.open())
        yield shop


@pytest.fixture
async def shop(open_shop: Shop) -> AsyncIterator[Shop]:
    open_shop.reset()
    yield open_shop
    with open_shop.worker():
        await open_shop.settle()
    await open_shop.assert_settled()
