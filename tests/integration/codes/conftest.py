from collections.abc import AsyncIterator

import httpx
import pytest

from core.settings import Settings
from tests.harness.codes import CodesHarness
from tests.harness.database import TestDatabase
from tests.harness.http import api_client
from tests.harness.ledger import Ledger
from tests.harness.settings import NOWHERE
from tests.harness.tokens import TokenIssuer


@pytest.fixture
def ledger(database: TestDatabase) -> Ledger:
    return Ledger(database)


@pytest.fixture
def issuer(database: TestDatabase) -> TokenIssuer:
    return TokenIssuer(NOWHERE, database)


@pytest.fixture
async def client(settings: Settings, issuer: TokenIssuer) -> AsyncIterator[httpx.AsyncClient]:
    async with api_client(settings, transport=issuer.transport()) as started:
        yield started


@pytest.fixture
def codes(client: httpx.AsyncClient, issuer: TokenIssuer) -> CodesHarness:
    return CodesHarness(client, issuer)
