"""Every DomainError that is known, and an example of each."""

import dataclasses
import datetime as dt
import uuid
from typing import Any, get_type_hints

from core.errors import DomainError

_EXAMPLES: dict[Any, Any] = {
    str: "word",
    int: 3,
    float: 1.5,
    uuid.UUID: uuid.UUID(int=7),
    dt.datetime: dt.datetime(2026, 12, 31, 23, tzinfo=dt.UTC),
}


def subclasses(cls: type[DomainError] = DomainError) -> list[type[DomainError]]:
    """All classes below `cls`, at any depth."""
    found = list(cls.__subclasses__())
    return found + [deeper for sub in found for deeper in subclasses(sub)]


def example(cls: type[DomainError]) -> DomainError:
    """An error whose required fields have some value of their type."""
    hints = get_type_hints(cls)
    required = {
        field.name: _EXAMPLES[hints[field.name]]
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]  # DomainError makes it one
        if field.default is dataclasses.MISSING
    }
    return cls(**required)
