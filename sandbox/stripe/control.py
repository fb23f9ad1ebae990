"""Reading requests and building answers for the control routes."""

from typing import Any, TypeVar

import msgspec

from sandbox.stripe import checkout
from sandbox.stripe.engine import Cause
from sandbox.stripe.errors import ApiError
from sandbox.stripe.replies import AnyRequest, Reply, base_url_of, encode, reply, sandbox_of

_T = TypeVar("_T")


async def read_body(request: AnyRequest, type_: type[_T]) -> _T:
    raw = await request.body()
    return msgspec.json.decode(raw or b"{}", type=type_)


def answer(request: AnyRequest, body: Any, status: int = 200) -> Reply:
    sandbox_of(request).store.flush()
    return reply(status, encode(body))


def own_cause(request: AnyRequest) -> Cause:
    """The cause of a change that no request of the API made; expires what is due first."""
    cause = Cause(base_url_of(request))
    checkout.sweep(sandbox_of(request), cause.base_url)
    return cause


def api_error(_: AnyRequest, error: ApiError) -> Reply:
    return reply(error.status, encode(error.body))


def invalid_body(_: AnyRequest, error: msgspec.ValidationError) -> Reply:
    return reply(422, encode({"detail": str(error)}))
