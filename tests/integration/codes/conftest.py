from collections.abc import AsyncIterator

import httpx
import pytest

from core.settings import Settings
from tests.integration.codes.counter import Counter
from tests.support.api import api_client
from tests.support.database import TestDatabase
from tests.support.ledger import Ledger
from tests.support.settings import NOWHERE
from tests.support.tokens import TokenIssuer


@pytest.fixture
def ledger(database: TestDatabase) -> Ledger:
    return Ledger(database)


@pytest.fixture
def issuer() -> TokenIssuer:
    return TokenIssuer(NOWHERE)


@pytest.fixture
async def client(settings: Settings, issuer: TokenIssuer) -> AsyncIterator[httpx.AsyncClient]:
    async with api_client(settings, transport=issuer.transport()) as started:
        yield started


@pytest.fixture
def counter(client: httpx.AsyncClient, issuer: TokenIssuer) -> Counter:
    return Counter(client, issuer)
