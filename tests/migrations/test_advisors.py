"""The advisors find nothing in what the migrations make, and each can find something."""

import pytest

from tests.harness.database import TestDatabase
from tests.migrations.advisors import ADVISORS, Advisor

_SCHEMAS = {"ours": ["app", "public"], "exposed": ["public"]}


@pytest.mark.parametrize("advisor", ADVISORS, ids=lambda advisor: advisor.name)
def test_advisor_is_clean_and_can_be_red(database: TestDatabase, advisor: Advisor) -> None:
    assert database.rows(advisor.query, _SCHEMAS) == []
    database.rows(advisor.bad)
    assert len(database.rows(advisor.query, _SCHEMAS)) >= 1
