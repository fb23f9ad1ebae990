"""Every event that a test's statements write is held against its schema in docs/events."""

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema

from tests.harness.database import TestDatabase

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "events"

_ROWS = "select to_jsonb(event) as event from app.events as event order by created_at, id"


@functools.cache
def schemas() -> dict[str, jsonschema.Draft202012Validator]:
    """Type of event → validator of its whole row."""
    return {
        path.stem: jsonschema.Draft202012Validator(json.loads(path.read_text()))
        for path in FOLDER.glob("*.json")
    }


def complaints(event: dict[str, Any]) -> list[str]:
    """What is wrong with one row of app.events, as JSON."""
    schema = schemas().get(event["type"])
    if schema is None:
        return [f"{event['type']}: no docs/events/{event['type']}.json"]
    return [
        f"{event['type']} {error.json_path}: {error.message}" for error in schema.iter_errors(event)
    ]


def undocumented(database: TestDatabase) -> list[str]:
    """What the rows of a database say that their schemas do not."""
    return [line for row in database.rows(_ROWS) for line in complaints(row["event"])]
