import pytest

from tests.support.database import TestDatabase
from tests.support.ledger import Ledger


@pytest.fixture
def ledger(database: TestDatabase) -> Ledger:
    return Ledger(database)
