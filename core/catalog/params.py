"""Parameters of an operation, checked against the catalogue's JSON schema (draft 2020-12).

The schemas are ours; the parameters are a stranger's. Errors say in plain words what to change.
"""

import functools
from collections.abc import Mapping
from typing import Any

import msgspec
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from core.errors import Fault, InvalidInputError

ERRORS_MAX = 20
REASON = "params_do_not_fit"
_DETAIL = "The parameters do not fit this operation; `errors` says what to change."
_TYPE_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}

_LIMIT_WORDS = {
    "const": "must be {}",
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be more than {}",
    "exclusiveMaximum": "must be less than {}",
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
}
_BRANCH_WORDS = {"anyOf": "give at least one of", "oneOf": "give one of"}


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
            field="params", reason=REASON, detail=_DETAIL, errors=tuple(faults[:ERRORS_MAX])
        )
    return _complete(schema, given)


def _tidied(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _unprintable(given: Mapping[str, Any]) -> list[Fault]:
    """Characters that jsonb cannot keep or that no person types."""
    return [
        _fault([name], "must not contain control characters")
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
        names = ", ".join(sorted(known)) or "none"
        return [
            _fault([*where, name], f"is not a parameter here; there are: {names}")
            for name in instance
            if name not in known
        ]
    if error.validator == "required":
        return [_fault([*where, name], "is required") for name in limit if name not in instance]
    return [_fault(where, _words(error, limit))]


def _words(error: ValidationError, limit: Any) -> str:
    if error.validator == "type":
        wanted = limit if isinstance(limit, list) else [limit]
        return f"must be {' or '.join(_TYPE_WORDS[name] for name in wanted)}"
    if error.validator == "enum":
        return f"must be one of: {', '.join(str(value) for value in limit)}"
    if error.validator in _BRANCH_WORDS and (names := _alternatives(limit)):
        return f"{_BRANCH_WORDS[error.validator]}: {names}"
    words = _LIMIT_WORDS.get(str(error.validator), "does not fit the parameter's schema")
    return words.format(limit)


def _alternatives(branches: list[Any]) -> str | None:
    """`prompt, preset`, if each branch does no more than require one parameter."""
    names = [
        branch["required"][0]
        for branch in branches
        if set(branch) == {"required"} and len(branch["required"]) == 1
    ]
    return ", ".join(names) if len(names) == len(branches) else None


def _fault(path: list[Any], detail: str) -> Fault:
    parts = [str(part)[:100].replace("~", "~0").replace("/", "~1") for part in path]
    return Fault(pointer="/".join(["#/params", *parts]), detail=detail)


def _complete(schema: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    complete = {}
    for name, rule in schema.get("properties", {}).items():
        if name in given:
            value = given[name]
            # JSON has one kind of number; 2.0 is a whole one.
            is_whole = rule.get("type") == "integer" and isinstance(value, float)
            complete[name] = int(value) if is_whole else value
        elif "default" in rule:
            complete[name] = rule["default"]
    return {**given, **complete}
