"""The enums of the code are those of the check constraints."""

import re
from enum import StrEnum

import pytest

from core.credits.types import EntryKind, Purpose, Source
from tests.harness.database import TestDatabase


@pytest.mark.parametrize(
    ("constraint", "enum"),
    [
        ("credit_lots_source", Source),
        ("ledger_transfers_kind", EntryKind),
        ("reservations_purpose", Purpose),
    ],
)
def test_enums_equal_their_constraint(
    database: TestDatabase, constraint: str, enum: type[StrEnum]
) -> None:
    row = database.row(
        "select pg_get_constraintdef(oid) as text from pg_constraint where conname = %s",
        (constraint,),
    )
    assert set(re.findall(r"'(\w+)'", row["text"])) == {member.value for member in enum}
