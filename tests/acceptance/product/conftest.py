"""One product for all acceptance tests of a process; each test ends with clean books."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from sandbox.stack.product import Product
from tests.harness.product import FAL_ARGUMENTS, SETTINGS, ProductHarness
from tests.harness.run import Run


@pytest.fixture(scope="session")
def running_product(test_run: Run) -> Iterator[ProductHarness]:
    folder = test_run.new_folder("acceptance")
    # Workers start all the time here: compiled once, they start in half the time.
    compiled = {"PYTHONDONTWRITEBYTECODE": ""}
    processes = Product(
        folder,
        durable=False,
        temporary=True,
        settings=SETTINGS | compiled,
        fal_arguments=FAL_ARGUMENTS,
        workers=0,
    )
    with processes:
        product = ProductHarness(processes)
        asyncio.run(product.open())
        yield product


@pytest.fixture
async def product(running_product: ProductHarness) -> AsyncIterator[ProductHarness]:
    running_product.reset()
    yield running_product
    if running_product.has_tasks():
        with running_product.worker():
            await running_product.settle()
    await running_product.assert_settled()
