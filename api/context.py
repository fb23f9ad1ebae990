"""What the edge knows of a request before any route runs."""

import time
from typing import TYPE_CHECKING, Any, cast

import msgspec
from litestar.connection import ASGIConnection

from core.errors import DomainError
from core.identity.tokens import Claims

if TYPE_CHECKING:
    from litestar.types import Scope


class RequestContext(msgspec.Struct):
    """One per request, in `scope["state"]["context"]`."""

    request_id: str
    client_ip: str
    started: float = msgspec.field(default_factory=time.perf_counter)
    claims: Claims | None = None
    refusal: DomainError | None = None
    actor: str | None = None
    headers: list[tuple[bytes, bytes]] = msgspec.field(default_factory=list)


def of_scope(scope: "Scope") -> RequestContext:
    return cast("RequestContext", scope["state"]["context"])


def of(connection: ASGIConnection[Any, Any, Any, Any]) -> RequestContext:
    return of_scope(connection.scope)
