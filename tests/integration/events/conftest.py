import pytest

from tests.harness.database import TestDatabase
from tests.harness.ledger import Ledger


@pytest.fixture
def ledger(database: TestDatabase) -> Ledger:
    return Ledger(database)
