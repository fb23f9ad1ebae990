"""Every DomainError of every noun, and an example of each."""

import dataclasses
import datetime as dt
import uuid
from enum import StrEnum
from typing import Any, get_type_hints

from core.errors import DomainError, Reason
from core.sql_errors import decode

assert decode("JS430", None) is not None, "importing it imports the errors of all nouns"

_EXAMPLES: dict[Any, Any] = {
    str: "word",
    int: 3,
    float: 1.5,
    uuid.UUID: uuid.UUID(int=7),
    dt.datetime: dt.datetime(2026, 12, 31, 23, tzinfo=dt.UTC),
    dict[str, Any]: {"width": 40},
}


def subclasses(cls: type[DomainError] = DomainError) -> list[type[DomainError]]:
    """All classes below `cls`, at any depth."""
    found = list(cls.__subclasses__())
    return found + [deeper for sub in found for deeper in subclasses(sub)]


def required_of(cls: type[DomainError]) -> set[str]:
    return {
        field.name
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]  # DomainError makes it one
        if field.default is dataclasses.MISSING
    }


def example(cls: type[DomainError]) -> DomainError:
    """An error whose required fields have some value of their type."""
    hints = get_type_hints(cls)
    return cls(**{name: _example(cls, hints[name]) for name in required_of(cls)})


def _example(cls: type[DomainError], hint: Any) -> Any:
    if hint is Reason:
        words = [word for noun in Reason.__subclasses__() for word in noun]
        return cls.for_reasons[0] if cls.for_reasons else words[0]
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return next(iter(hint))
    return _EXAMPLES[hint]
