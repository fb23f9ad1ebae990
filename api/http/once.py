"""A POST that may be repeated: with an `Idempotency-Key` it is carried out once.

    async def create_thing(user: CurrentUser, db: Db, once: OnceKey, ...) -> Response[ThingView]:
        view = await once.run(db, user.scope, ThingView, lambda conn: make_thing(conn, data))

The answer is stored in the transaction of its effect and given again for 24 hours, with
`Idempotency-Replayed: true`; a repetition during the first is answered 409 with Retry-After, one
with another path or body is refused (422). A field of type `ShownOnce` is never
stored: it is null in a repeated answer.
"""

import hashlib
from collections.abc import Awaitable, Callable, Iterator
from functools import cache
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency, Provide
from litestar.params import HeaderParameter, SkipValidation

from api.identity import AnyRequest, context_of
from core import idempotency
from core.db import Connection, Database, Scope
from core.errors import (
    DomainError,
    IdempotencyMismatchError,
    InvalidInputError,
    RequestInProgressError,
)
from core.idempotency import KEY_LENGTH_MAX, IdempotentRequest

Answer = TypeVar("Answer", bound=msgspec.Struct)

REPLAYED = "Idempotency-Replayed"
REPLAYED_HEADER = ResponseHeader(
    name=REPLAYED,
    description="`true`: an earlier request with this key was carried out, and this is its answer.",
    documentation_only=True,
)
# What a route with a key may raise besides its own.
ONCE_ERRORS: tuple[type[DomainError], ...] = (
    InvalidInputError,
    RequestInProgressError,
    IdempotencyMismatchError,
)
_REPLAYED = (REPLAYED.lower().encode(), b"true")
_SECRET = {"shown_once": True}
ShownOnce = Annotated[
    str | None,
    msgspec.Meta(
        description="Shown once: it is not stored, and null where the request is repeated.",
        extra=_SECRET,
    ),
]


class Once:
    """The key of one request. Without a key the request is carried out each time that it comes."""

    def __init__(self, request: AnyRequest, key: str | None) -> None:
        self._request = request
        self.key = key

    async def run(
        self,
        db: Database,
        scope: Scope,
        answer_type: type[Answer],
        effect: Callable[[Connection], Awaitable[Answer]],
    ) -> Answer:
        """What `effect` answers, or answered the first time, in one transaction.

        Raises: InvalidInputError, RequestInProgressError, IdempotencyMismatchError, and what
        `effect` raises; then nothing is stored.
        """
        claim = await self.claim()
        return await db.run(
            lambda conn: self.answer_in(conn, claim, answer_type, effect), scope=scope
        )

    async def claim(self) -> IdempotentRequest | None:
        """The key with this path and body. Called before a transaction opens."""
        return None if self.key is None else self.claim_for(await self._request.body())

    def claim_for(self, body: bytes) -> IdempotentRequest | None:
        """As `claim`, where the body is read by the route. Raises: InvalidInputError."""
        if self.key is None:
            return None
        handler = self._request.route_handler
        digest = hashlib.sha256(self._request.url.path.encode() + b"\0" + body).digest()
        return idempotency.request_of(str(handler.operation_id), self.key, digest)

    @property
    def required_key(self) -> str:
        """The key, for a route that requires one."""
        assert self.key is not None
        return self.key

    async def answer_in(
        self,
        conn: Connection,
        claim: IdempotentRequest | None,
        answer_type: type[Answer],
        effect: Callable[[Connection], Awaitable[Answer]],
    ) -> Answer:
        """As `run`, within a transaction that does more."""
        if claim is None:
            return await effect(conn)
        stored = await idempotency.begin(conn, claim)
        if stored is not None:
            self.mark_replay(is_replay=True)
            return msgspec.convert(stored.response, answer_type)
        answer = await effect(conn)
        await idempotency.store(
            conn,
            claim,
            status=self._request.route_handler.status_code,
            response=stored_form(answer),
        )
        return answer

    def mark_replay(self, *, is_replay: bool) -> None:
        """Adds the header of a replay to the answer, if it is one."""
        headers = context_of(self._request).headers
        # A transaction whose connection broke is run again, and marks again.
        if is_replay and _REPLAYED not in headers:
            headers.append(_REPLAYED)


def _provide_once(
    request: AnyRequest,
    idempotency_key: Annotated[
        str | None,
        HeaderParameter(
            name="Idempotency-Key",
            description="Repeat a request with the same key and it is carried out once. 24 hours.",
            max_length=KEY_LENGTH_MAX,
        ),
    ] = None,
) -> Once:
    return Once(request, idempotency_key)


def _provide_once_for_ever(
    request: AnyRequest,
    idempotency_key: Annotated[
        str,
        HeaderParameter(
            name="Idempotency-Key",
            description="Required. The same key and body are carried out once, for ever.",
            min_length=1,
            max_length=KEY_LENGTH_MAX,
        ),
    ],
) -> Once:
    return Once(request, idempotency_key)


OnceKey: TypeAlias = NamedDependency[SkipValidation[Once]]  # once
DEPENDENCIES = {"once": Provide(_provide_once, sync_to_thread=False)}
# For a route that requires a key, which its effect stores for ever.
KEY_REQUIRED = {"once": Provide(_provide_once_for_ever, sync_to_thread=False)}

_EACH = "*"


def stored_form(answer: msgspec.Struct) -> dict[str, Any]:
    """The answer as it may be stored: without what is shown once."""
    form: dict[str, Any] = msgspec.to_builtins(answer)
    for path in _secret_paths(type(answer)):
        _blank(form, path)
    return form


@cache
def _secret_paths(answer_type: type[msgspec.Struct]) -> tuple[tuple[str, ...], ...]:
    return tuple(_paths_in(msgspec.inspect.type_info(answer_type)))


def _paths_in(kind: msgspec.inspect.Type) -> Iterator[tuple[str, ...]]:
    match kind:
        case msgspec.inspect.Metadata(extra=extra) if extra == _SECRET:
            yield ()
        case msgspec.inspect.Metadata(type=inner):
            yield from _paths_in(inner)
        case msgspec.inspect.UnionType(types=kinds):
            for each in kinds:
                yield from _paths_in(each)
        case msgspec.inspect.ListType(item_type=item):
            yield from ((_EACH, *path) for path in _paths_in(item))
        case msgspec.inspect.StructType(fields=fields):
            for field in fields:
                yield from ((field.encode_name, *path) for path in _paths_in(field.type))
        case _:
            return


def _blank(form: Any, path: tuple[str, ...]) -> None:
    head, *rest = path
    for place in range(len(form)) if head == _EACH else (head,):
        if not rest:
            form[place] = None
        elif form[place] is not None:
            _blank(form[place], tuple(rest))
