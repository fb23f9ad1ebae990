"""The error document of every route, RFC 9457."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta


class FieldError(msgspec.Struct, frozen=True):
    """One thing that is wrong with a request, and where."""

    pointer: Annotated[
        str,
        Meta(
            description="A JSON pointer into the body (`#/email`), or the place and name of a"
            " parameter (`query/limit`, `header/Prefer`, `path/id`)."
        ),
    ]
    detail: str


class ProblemDetails(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem document. Further members depend on the type and are shown in the examples."""

    type: Annotated[
        str, Meta(description="A stable URI that names the problem and explains it when opened.")
    ]
    title: str
    status: int
    detail: str
    instance: Annotated[str, Meta(description="The path that was asked for.")]
    request_id: Annotated[str, Meta(description="Quote it when you ask for help.")]
    errors: list[FieldError] | None = None
    reason: Annotated[
        str | None, Meta(description="A stable word for programs, where a type has several causes.")
    ] = None
    retry_after_seconds: float | None = None


class ProblemType(msgspec.Struct, frozen=True):
    """What a problem type means and what to do about it."""

    type: str
    slug: str
    status: int
    title: str
    meaning: str
    what_to_do: str
    members: dict[str, Any]
