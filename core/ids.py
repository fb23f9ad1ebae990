"""Ids, minted by us before the transaction: a retry after a lost COMMIT finds itself done."""

import os
import time
import uuid


def new_id() -> uuid.UUID:
    """A time-ordered UUID (version 7, RFC 9562 section 5.7): new rows land at an index's end."""
    milliseconds = time.time_ns() // 1_000_000
    value = milliseconds << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)
