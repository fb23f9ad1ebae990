"""Parameters of an operation, checked against the catalogue's JSON schema (draft 2020-12).

The schemas are ours; the parameters come from the client. Errors name what to change.
"""

import functools
from collections.abc import Mapping
from typing import Any

import msgspec
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from core.catalog.errors import CatalogReason
from core.errors import Fault, InvalidInputError
from core.words.say import say

ERRORS_MAX = 20
# The keywords of JSON Schema that have a sentence of their own, which shows their `limit`.
LIMITS = frozenset(
    {
        "const",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minLength",
        "maxLength",
    }
)
BRANCHES = frozenset({"anyOf", "oneOf"})


@functools.lru_cache(maxsize=256)
def _validator(schema: bytes) -> Draft202012Validator:
    decoded = msgspec.json.decode(schema)
    Draft202012Validator.check_schema(decoded)
    return Draft202012Validator(decoded)


def check(schema: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` with the schema's defaults filled in, text trimmed, whole numbers as integers.

    Raises: InvalidInputError (field `params`, `errors` with a pointer into the request's body).
    """
    validator = _validator(msgspec.json.encode(schema))
    given = {name: _tidied(value) for name, value in params.items()}
    faults = [*_unprintable(given), *_faults(validator, given)]
    if faults:
        raise InvalidInputError(
            field="params",
            reason=CatalogReason.PARAMS_DO_NOT_FIT,
            errors=tuple(faults[:ERRORS_MAX]),
        )
    return _complete(schema, given)


def _tidied(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _unprintable(given: Mapping[str, Any]) -> list[Fault]:
    """Characters that jsonb cannot keep or that no person types."""
    return [
        _fault([name], "control_characters")
        for name, value in given.items()
        if isinstance(value, str) and any(char < " " and char not in "\n\r\t" for char in value)
    ]


def _faults(validator: Draft202012Validator, given: dict[str, Any]) -> list[Fault]:
    found = sorted(validator.iter_errors(given), key=lambda error: [str(p) for p in error.path])
    return [fault for error in found for fault in _explain(error)]


def _explain(error: ValidationError) -> list[Fault]:
    where = list(error.absolute_path)
    limit: Any = error.validator_value
    instance: Any = error.instance
    if error.validator == "additionalProperties":
        rules: Any = error.schema
        known = rules.get("properties", {})
        names = sorted(known)
        return [
            _fault([*where, name], "unknown" if names else "unknown_all", names=names)
            for name in instance
            if name not in known
        ]
    if error.validator == "required":
        return [_fault([*where, name], "required") for name in limit if name not in instance]
    return [_fault(where, *_rule(error, limit))]


def _rule(error: ValidationError, limit: Any) -> tuple[str, Any]:
    """Which sentence says what the value breaks, and the limit that it shows."""
    if error.validator == "type":
        return "type", limit if isinstance(limit, list) else [limit]
    if error.validator == "enum":
        return "enum", limit
    if error.validator in BRANCHES and (names := _alternatives(limit)):
        return str(error.validator), names
    return (str(error.validator) if error.validator in LIMITS else "other"), limit


def _alternatives(branches: list[Any]) -> list[str]:
    """`prompt` and `preset`, if each branch does no more than require one parameter."""
    names = [
        branch["required"][0]
        for branch in branches
        if set(branch) == {"required"} and len(branch["required"]) == 1
    ]
    return names if len(names) == len(branches) else []


def _fault(path: list[Any], rule: str, limit: Any = None, names: list[str] | None = None) -> Fault:
    parts = [str(part)[:100].replace("~", "~0").replace("/", "~1") for part in path]
    detail = say(f"param.{rule}", limit=limit, names=names)
    return Fault(pointer="/".join(["#/params", *parts]), detail=detail)


def _complete(schema: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    complete = {}
    for name, rule in schema.get("properties", {}).items():
        if name in given:
            value = given[name]
            # JSON has one type of number; 2.0 counts as an integer.
            is_whole = rule.get("type") == "integer" and isinstance(value, float)
            complete[name] = int(value) if is_whole else value
        elif "default" in rule:
            complete[name] = rule["default"]
    return {**given, **complete}
