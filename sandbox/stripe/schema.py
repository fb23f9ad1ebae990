"""Parameters checked against the SDK's own TypedDicts: names, requiredness, kinds of value.

The SDK is generated from Stripe's OpenAPI description, so a parameter it does not know is one
that Stripe refuses. Values arrive as text and leave as the declared types.
"""

import types
from collections.abc import Mapping
from functools import cache
from typing import (
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import stripe
from typing_extensions import is_typeddict  # typing.is_typeddict is blind to the SDK's

from sandbox.stripe.errors import malformed
from sandbox.stripe.forms import Form

# Transport options that `RequestOptions` mixes into the parameter types.
_OPTIONS = frozenset(stripe.RequestOptions.__annotations__)
# Names that the SDK imports for type checkers only.
_LATE_NAMES: dict[str, Any] = {"StripeContext": stripe.StripeContext, "Mapping": Mapping}
_TRUE = {"true": True, "false": False}


@cache
def fields_of(params_type: Any) -> dict[str, Any]:
    hints = get_type_hints(params_type, localns=_LATE_NAMES)
    return {name: hint for name, hint in hints.items() if name not in _OPTIONS}


def check(params_type: Any, form: Form) -> dict[str, Any]:
    """The parameters with their types. Raises: ApiError 400, naming the first bad one."""
    return _struct(params_type, form, "")


def _named(prefix: str, name: str) -> str:
    return f"{prefix}[{name}]" if prefix else name


def _struct(params_type: Any, form: Form, prefix: str) -> dict[str, Any]:
    fields = fields_of(params_type)
    for name in form:
        if name not in fields:
            param = _named(prefix, name)
            raise malformed(
                f"Received unknown parameter: {param}", code="parameter_unknown", param=param
            )
    for name in sorted(params_type.__required_keys__ - _OPTIONS):
        if name not in form:
            param = _named(prefix, name)
            raise malformed(
                f"Missing required param: {param}.", code="parameter_missing", param=param
            )
    return {name: _value(fields[name], value, _named(prefix, name)) for name, value in form.items()}


def _options(hint: Any) -> tuple[Any, ...]:
    origin = get_origin(hint)
    if origin in {NotRequired, Required}:
        return _options(get_args(hint)[0])
    if origin in {Union, types.UnionType}:
        return tuple(option for part in get_args(hint) for option in _options(part))
    return (hint,)


def _value(hint: Any, value: Any, param: str) -> Any:
    options = [option for option in _options(hint) if option is not type(None)]
    literals = [name for option in options for name in get_args(option) if _is_literal(option)]
    others = [option for option in options if not _is_literal(option)]
    if value == "" and "" in literals:
        return ""
    if isinstance(value, dict):
        return _nested(others, value, param)
    names = [name for name in literals if name != ""]
    if value in names:
        return value
    scalars = [option for option in others if not _is_container(option)]
    if names and all(option is str for option in scalars):
        # `Literal[...] | str` is the SDK staying open for later versions; this one is closed.
        raise malformed(
            f"Invalid {param}: must be one of {', '.join(map(str, names))}", param=param
        )
    if not scalars:
        raise malformed("Invalid object" if others else f"Invalid {param}", param=param)
    return _scalar(scalars, value, param)


def _is_literal(option: Any) -> bool:
    return get_origin(option) is Literal


def _is_container(option: Any) -> bool:
    return is_typeddict(option) or get_origin(option) is not None


def _nested(options: list[Any], value: Form, param: str) -> Any:
    for option in options:
        if is_typeddict(option):
            return _struct(option, value, param)
        if get_origin(option) is list:
            return _list(get_args(option)[0], value, param)
        if _is_container(option):  # Dict[str, X]; UntypedStripeObject[X] comes after it
            inner = get_args(option)[-1]
            return {
                # An empty value unsets its key.
                key: item if item == "" else _value(inner, item, _named(param, key))
                for key, item in value.items()
            }
    raise malformed(f"Invalid {param}: not a hash or an array", param=param)


def _list(inner: Any, value: Form, param: str) -> list[Any]:
    if not all(key.isdigit() for key in value):
        raise malformed("Invalid array", param=param)
    return [_value(inner, value[key], _named(param, key)) for key in sorted(value, key=int)]


def _scalar(options: list[Any], value: str, param: str) -> Any:
    if bool in options and value in _TRUE:
        return _TRUE[value]
    if int in options and value.lstrip("-").isdigit():
        return int(value)
    if str in options:
        if value == "":
            raise malformed(
                f"You passed an empty string for '{param}'. We assume empty values are an attempt "
                f"to unset a parameter; however '{param}' cannot be unset. You should remove "
                f"'{param}' from your request or supply a non-empty value.",
                code="parameter_invalid_empty",
                param=param,
            )
        return value
    if int in options:
        raise malformed(f"Invalid integer: {value}", code="parameter_invalid_integer", param=param)
    if bool in options:
        raise malformed(f"Invalid boolean: {value}", param=param)
    try:
        return float(value)
    except ValueError:
        raise malformed(f"Invalid decimal: {value}", param=param) from None
