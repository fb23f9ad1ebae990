"""The API under /v1: key, faults, idempotency, parameters, and then the operation."""

import asyncio
import re
from base64 import b64decode
from binascii import Error as Base64Error
from typing import Any, NamedTuple

from litestar import HttpMethod, route
from litestar.params import FromPath

from sandbox.kit.connections import drop_connection
from sandbox.stripe import checkout, idempotency
from sandbox.stripe.config import API_VERSION
from sandbox.stripe.engine import Cause, Sandbox, new_id
from sandbox.stripe.errors import (
    ApiError,
    malformed,
    rate_limited,
    server_error,
    unauthorized,
)
from sandbox.stripe.expand import expanded
from sandbox.stripe.faults import FaultKind, Faults
from sandbox.stripe.forms import nest, parse_pairs
from sandbox.stripe.operations import find_operation
from sandbox.stripe.replies import (
    DROPPED,
    AnyRequest,
    Reply,
    base_url_of,
    encode,
    reply,
    sandbox_of,
)
from sandbox.stripe.schema import check

_KEY = re.compile(r"(?:sk|rk)_test_\w+")
KEY_CHARS_MAX = 255
_DROPPED = frozenset({FaultKind.DROP_BEFORE, FaultKind.DROP_AFTER, FaultKind.SILENCE})
Answer = tuple[int, bytes]


class Incoming(NamedTuple):
    box: Sandbox
    request: AnyRequest
    path: str
    raw: bytes
    faults: Faults
    headers: dict[str, str]  # of the answer

    @property
    def key(self) -> str | None:
        return self.headers.get("idempotency-key")


@route("/v1/{path:path}", http_method=[HttpMethod.GET, HttpMethod.POST, HttpMethod.DELETE])
async def api(request: AnyRequest, path: FromPath[str]) -> Reply:
    box = sandbox_of(request)
    path = path.strip("/")
    raw = await request.body()
    headers = {"request-id": new_id("req_", 14)}
    key = request.headers.get("idempotency-key") if request.method == "POST" else None
    if key is not None:
        headers["idempotency-key"] = key
    faults = box.plan.of_request(request.method, path, key, raw)
    try:
        _authorise(box, request)
        status, body = await _answer(Incoming(box, request, path, raw, faults, headers))
    except ApiError as error:
        status, body = error.status, encode(error.body)
    box.store.flush()
    if not faults.keys().isdisjoint(_DROPPED):
        drop_connection(request.scope)
        return reply(200, b"{", {**headers, DROPPED: "1"})
    return reply(status, body, headers)


async def _answer(incoming: Incoming) -> Answer:
    box, headers, key = incoming.box, incoming.headers, incoming.key
    if FaultKind.RATE_LIMITED in incoming.faults:
        raise rate_limited()
    if FaultKind.DROP_BEFORE in incoming.faults:
        return 200, b""
    if FaultKind.SILENCE in incoming.faults:
        await _delay(incoming.faults, FaultKind.SILENCE, seconds=65.0)
        return 200, b""
    if key is None:
        return await _execute(incoming)
    if len(key) > KEY_CHARS_MAX:
        raise malformed(f"Idempotency keys can be at most {KEY_CHARS_MAX} characters long.")
    found = idempotency.begin(box, key, incoming.request.method, incoming.path, incoming.raw)
    if found is not None:
        headers.update({"idempotent-replayed": "true", "original-request": found.request_id})
        return found.status, found.body
    try:
        status, body = await _execute(incoming)
    except ApiError as error:
        if error.stored:
            answer = error.status, encode(error.body)
            idempotency.store(box, key, headers["request-id"], *answer)
        else:
            idempotency.discard(box, key)
        raise
    else:
        idempotency.store(box, key, headers["request-id"], status, body)
        return status, body
    finally:
        box.keys_in_use.discard(key)


async def _execute(incoming: Incoming) -> Answer:
    box, request, faults = incoming.box, incoming.request, incoming.faults
    found = find_operation(request.method, incoming.path)
    if found is None:
        raise ApiError(
            404, f"Unrecognized request URL ({request.method}: /v1/{incoming.path}).", stored=False
        )
    operation, ids = found
    pairs = parse_pairs(request.scope["query_string"]) + parse_pairs(incoming.raw)
    params = check(operation.params, nest(pairs))
    await _delay(faults, FaultKind.DELAY_BEFORE)
    _break(faults, FaultKind.ERROR_BEFORE)
    cause = Cause(base_url_of(request), incoming.headers["request-id"], incoming.key)
    checkout.sweep(box, cause.base_url)
    paths = params.pop("expand", [])
    answer = operation.handle(box, cause, params, *ids)
    body = encode(expanded(box, answer, paths))
    await _delay(faults, FaultKind.DELAY_AFTER)
    _break(faults, FaultKind.ERROR_AFTER)
    return 200, body


async def _delay(faults: Faults, kind: FaultKind, *, seconds: float = 30.0) -> None:
    if kind in faults:
        await asyncio.sleep(float(faults[kind].get("seconds", seconds)))


def _break(faults: Faults, kind: FaultKind) -> None:
    if kind in faults:
        args = faults[kind]
        raise server_error(int(args.get("status", 500)), stored=bool(args.get("stored", True)))


def _authorise(box: Sandbox, request: AnyRequest) -> None:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    key = value if scheme.casefold() == "bearer" else _basic_user(scheme, value)
    if not key:
        raise unauthorized(
            "You did not provide an API key. You need to provide your API key in the Authorization "
            "header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY')."
        )
    known = key in box.config.keys if box.config.keys else _KEY.fullmatch(key) is not None
    if not known:
        shown = f"{key[:8]}{'*' * 12}{key[-4:]}" if len(key) > 12 else "*" * len(key)
        raise unauthorized(f"Invalid API Key provided: {shown}")
    version = request.headers.get("stripe-version", API_VERSION)
    if version != API_VERSION:
        raise malformed(
            f"Invalid Stripe API version: {version}. The sandbox serves {API_VERSION} only."
        )


def _basic_user(scheme: str, value: str) -> str:
    """As `curl -u sk_test_…:` sends it."""
    if scheme.casefold() != "basic":
        return ""
    try:
        user: Any = b64decode(value, validate=True).decode("utf-8", "replace").partition(":")[0]
    except Base64Error:
        return ""
    return str(user)
