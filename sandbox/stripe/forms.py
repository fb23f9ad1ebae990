"""Form encoding as the SDKs send it: `line_items[0][price]=p` to nested dicts.

Which dicts are lists is known only to whoever knows the types: `schema` turns them.
"""

from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

from sandbox.stripe.errors import malformed

Form = dict[str, Any]


def parse_pairs(raw: bytes) -> list[tuple[str, str]]:
    return parse_qsl(raw.decode("utf-8", "replace"), keep_blank_values=True)


def nest(pairs: Iterable[tuple[str, str]]) -> Form:
    """`a[]=1&a[]=2` numbers its elements, so that lists are dicts of digits throughout."""
    form: Form = {}
    for name, value in pairs:
        head, *rest = name.replace("]", "").split("[")
        place = form
        keys = [head, *rest]
        for index, key in enumerate(keys[:-1]):
            place = place.setdefault(key or str(len(place)), {})
            if not isinstance(place, dict):
                raise malformed("Invalid parameters: a value and a hash", param="".join(keys[:1]))
            keys[index] = key
        place[keys[-1] or str(len(place))] = value
    return form
