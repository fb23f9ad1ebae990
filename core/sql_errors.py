"""What SQL functions raise, as domain errors: `errcode = 'JSnnn', detail = <json>`.

The detail's names are the fields of the class, and nothing else is taken: what a function writes
and no class declares is a programmer's error. Message text is never matched. The classes of a
noun stand in `core/<noun>/errors.py` and are found there, whoever imports this module.
"""

import dataclasses
import importlib
import pkgutil
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, get_type_hints

import msgspec
import psycopg

import core
from core.errors import DomainError, Reason, find_reason


def _import_errors_of_nouns() -> None:
    for found in pkgutil.iter_modules(core.__path__):
        name = f"core.{found.name}.errors"
        if found.ispkg and find_spec(name) is not None:
            importlib.import_module(name)


def _subclasses(cls: type[DomainError]) -> Iterator[type[DomainError]]:
    for found in cls.__subclasses__():
        yield found
        yield from _subclasses(found)


def _wire_type(cls: type[DomainError]) -> type[msgspec.Struct]:
    """A struct with the fields of `cls`; msgspec itself cannot make an exception."""
    hints = get_type_hints(cls)
    declared: list[Any] = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # see DomainError
        wanted = str if hints[field.name] is Reason else hints[field.name]
        is_required = field.default is dataclasses.MISSING
        declared.append(
            (field.name, wanted) if is_required else (field.name, wanted, field.default)
        )
    return msgspec.defstruct(cls.__name__, declared, kw_only=True, forbid_unknown_fields=True)


_import_errors_of_nouns()
_WIRE_TYPES = {cls: _wire_type(cls) for cls in _subclasses(DomainError) if cls.sqlstate}
_BY_SQLSTATE: defaultdict[str, list[type[DomainError]]] = defaultdict(list)
for _cls in _WIRE_TYPES:
    _BY_SQLSTATE[str(_cls.sqlstate)].append(_cls)


def from_database(error: psycopg.Error) -> DomainError | None:
    """The DomainError that a SQL function raised, or None for a driver's own error."""
    return decode(error.sqlstate, error.diag.message_detail)


def decode(sqlstate: str | None, detail: str | None) -> DomainError | None:
    """As `from_database`, of what the function wrote.

    Raises: msgspec.ValidationError for fields or reasons that nobody declares.
    """
    classes = _BY_SQLSTATE.get(sqlstate or "")
    if classes is None:
        return None
    written = msgspec.json.decode(detail or "{}", type=dict[str, Any])
    word = written.get("reason")
    # The class of the SQLSTATE comes first; one below it speaks for some reasons.
    cls = next((found for found in classes if word in found.for_reasons), classes[0])
    read = msgspec.convert(written, _WIRE_TYPES[cls])
    fields = {name: getattr(read, name) for name in cls.field_names}
    if word is not None:
        fields["reason"] = _reason(word)
    made: DomainError = cls(**fields)
    return made


def _reason(word: str) -> Reason:
    found = find_reason(word)
    if found is None:
        raise msgspec.ValidationError(f"{word!r} is the reason of no noun")
    return found
