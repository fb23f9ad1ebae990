"""Idempotency keys: every repeat gets the first outcome, 500s included.

https://docs.stripe.com/api/idempotent_requests
"""

import hashlib
from typing import NamedTuple

from sandbox.stripe.engine import Sandbox
from sandbox.stripe.errors import key_in_use, key_reused

KIND = "sandbox.idempotency"
KEPT_SECONDS = 86_400


class StoredOutcome(NamedTuple):
    request_id: str
    status: int
    body: bytes


def begin(box: Sandbox, key: str, method: str, path: str, raw: bytes) -> StoredOutcome | None:
    """The outcome of an earlier request; None makes this one the first.

    Raises: ApiError, when the key came with other parameters or its request still runs.
    """
    digest = hashlib.sha256(b"\n".join([method.encode(), path.encode(), raw])).hexdigest()
    record = box.store.find(KIND, key)
    if record is not None and box.now() - record["at"] > KEPT_SECONDS:
        record = None
    if record is not None and record["digest"] != digest:
        raise key_reused(key)
    if key in box.keys_in_use:
        raise key_in_use(key)
    if record is not None and record["status"] is not None:
        return StoredOutcome(record["request_id"], record["status"], record["body"].encode())
    box.keys_in_use.add(key)
    box.store.save({"id": key, "at": box.now(), "digest": digest, "status": None}, KIND)
    return None


def store(box: Sandbox, key: str, request_id: str, status: int, body: bytes) -> None:
    record = box.store.find(KIND, key)
    assert record is not None
    record |= {"request_id": request_id, "status": status, "body": body.decode()}
    box.store.save(record, KIND)


def discard(box: Sandbox, key: str) -> None:
    """The request did not begin to execute: the key is free again."""
    box.store.remove(KIND, key)
