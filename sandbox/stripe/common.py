"""What the handlers of several resources share: look-up, metadata, copying of parameters."""

from collections.abc import Iterable
from typing import Any

from sandbox.stripe.engine import Sandbox
from sandbox.stripe.errors import invalid, missing
from sandbox.stripe.store import Obj

Params = dict[str, Any]

# https://docs.stripe.com/api/metadata
METADATA_KEYS_MAX = 50
METADATA_KEY_CHARS_MAX = 40
METADATA_VALUE_CHARS_MAX = 500


def get(box: Sandbox, kind: str, id_: str) -> Obj:
    """The object of a path. Raises: ApiError 404."""
    found = box.store.find(kind, id_)
    if found is None:
        raise missing(kind, id_)
    return found


def named(box: Sandbox, kind: str, id_: str, param: str) -> Obj:
    """The object that a parameter names. Raises: ApiError 400."""
    found = box.store.find(kind, id_)
    if found is None or found.get("deleted"):
        raise missing(kind, id_, param=param, status=400)
    return found


def merged_metadata(
    present: dict[str, str], change: Any, param: str = "metadata"
) -> dict[str, str]:
    """An empty value unsets its key, an empty `change` unsets all."""
    if change == "":
        return {}
    merged = {**present, **change}
    merged = {key: value for key, value in merged.items() if value != ""}
    if len(merged) > METADATA_KEYS_MAX:
        raise invalid(
            f"Metadata can have up to {METADATA_KEYS_MAX} keys; you passed in {len(merged)}.",
            param=param,
        )
    for key, value in merged.items():
        if len(key) > METADATA_KEY_CHARS_MAX:
            raise invalid(
                f"Metadata keys can have up to {METADATA_KEY_CHARS_MAX} characters, but you passed "
                f"in a key that is {len(key)} characters. Invalid key: {key}",
                param=param,
            )
        if len(value) > METADATA_VALUE_CHARS_MAX:
            raise invalid(
                f"Metadata values can have up to {METADATA_VALUE_CHARS_MAX} characters, but you "
                f"passed in a value that is {len(value)} characters. Invalid value: {value}",
                param=f"{param}[{key}]",
            )
    return merged


def new_metadata(params: Params) -> dict[str, str]:
    return merged_metadata({}, params.get("metadata", {}))


def copy_fields(obj: Obj, params: Params, names: Iterable[str]) -> None:
    """An empty string unsets a field."""
    for name in names:
        if name in params:
            obj[name] = None if params[name] == "" else params[name]


def update_fields(obj: Obj, params: Params, names: Iterable[str]) -> None:
    copy_fields(obj, params, names)
    if "metadata" in params:
        obj["metadata"] = merged_metadata(obj["metadata"], params["metadata"])
