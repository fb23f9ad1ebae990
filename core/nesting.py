"""How deep JSON from outside may nest: far above any real body, far below what recursion takes."""

import re
from array import array
from itertools import accumulate
from typing import Final

DEPTH_MAX: Final = 64
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NO_BRACKET: Final = bytes(sorted(set(range(256)) - set(b"[]{}")))
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # 1 and -1


def is_too_deep(raw: bytes) -> bool:
    """Before it is decoded, which takes a level of the interpreter's stack for each of its own.

    Nearly all bodies have too few brackets to need more than a count.
    """
    if raw.count(b"[") + raw.count(b"{") <= DEPTH_MAX:
        return False
    brackets = _STRING.sub(b"", raw).translate(_STEPS, _NO_BRACKET)
    return max(accumulate(array("b", brackets)), default=0) > DEPTH_MAX
