"""The one table from errors to problem documents (RFC 9457), and how routes declare them.

Owns status, type and meaning of every error a caller may see. Nothing here shows the text of a
driver or vendor: `detail` is a sentence of core/words over a domain error's declared fields.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example

from api.schemas.problems import FieldError, ProblemDetails
from core import errors
from core.codes.errors import ExpiredCodeError, UnknownCodeError, UsedUpCodeError
from core.credits.errors import InsufficientCreditsError, MoneyInvariantError
from core.generations.errors import GenerationReason
from core.identity.errors import AccessReason, BadCredentialsError, NoIdentityError
from core.pixels.errors import Found, PayloadTooLargeError, PhotoReason, UnsupportedMediaError
from core.tasks.errors import LeaseLostError
from core.uploads.errors import UploadReason
from core.words.say import SENTENCES, figures_of, say

MEDIA_TYPE = "application/problem+json"
_RESERVED = frozenset({"type", "title", "status", "instance", "request_id", "errors"})


class ProblemKind(msgspec.Struct, frozen=True, kw_only=True):
    """One problem type. Its `detail` is the sentence of the error's reason, or `problem.<slug>`."""

    status: int
    slug: str
    title: str
    meaning: str
    what_to_do: str
    members: Mapping[str, Any] = msgspec.field(default_factory=dict)
    retry_after_seconds: int | None = None


INVALID_REQUEST = ProblemKind(
    status=400,
    slug="invalid-request",
    title="The request does not match the documented form",
    meaning="A parameter, a header or the body is missing, malformed or of the wrong type.",
    what_to_do="Correct what `errors` points at and send the request again.",
    members={"errors": [{"pointer": "#/email", "detail": "Expected `str`, got `int`"}]},
)
UNAUTHENTICATED = ProblemKind(
    status=401,
    slug="unauthenticated",
    title="Sign in first",
    meaning="No access token was sent, or it is expired, malformed or not ours.",
    what_to_do="Sign in or refresh the session and send `Authorization: Bearer <access token>`.",
)
FORBIDDEN = ProblemKind(
    status=403,
    slug="not-allowed",
    title="Not allowed",
    meaning="You are known, and what you asked for is not open to you. `reason` says why.",
    what_to_do="Use an account that may do it, or do what `reason` asks for.",
    members=errors.NotAllowedError(reason=AccessReason.MFA_REQUIRED).fields,
)
NOT_FOUND = ProblemKind(
    status=404,
    slug="not-found",
    title="Not found",
    meaning="The path or the thing it names does not exist, or belongs to somebody else.",
    what_to_do="Check the path and the id.",
    members=errors.NotFoundError(kind="generation").fields,
)
METHOD_NOT_ALLOWED = ProblemKind(
    status=405,
    slug="method-not-allowed",
    title="This path does not take that method",
    meaning="The path exists, but not for that HTTP method.",
    what_to_do="Use one of the methods in the Allow header.",
)
NOT_ACCEPTABLE = ProblemKind(
    status=406,
    slug="not-acceptable",
    title="No such representation",
    meaning="The Accept header leaves no form that this path can answer in.",
    what_to_do="Accept application/json.",
)
TOO_SLOW = ProblemKind(
    status=408,
    slug="too-slow",
    title="The body came too slowly",
    meaning="A body has 20 seconds, a photo 60 and as much longer as it takes at 0.5 Mbit/s, and no"
    " body may pause for more than about 10.",
    what_to_do="Send it again over a better connection, or send a smaller photo.",
)
PAYLOAD_TOO_LARGE = ProblemKind(
    status=413,
    slug="payload-too-large",
    title="Too large",
    meaning="The request's body or the image in it is over the stated limit.",
    what_to_do="Send a smaller file or body; the limit is in the document where it is known.",
    members=PayloadTooLargeError(
        reason=PhotoReason.TOO_MANY_BYTES, size_bytes=31_400_000, limit_bytes=25_000_000
    ).fields,
)
UNSUPPORTED_MEDIA = ProblemKind(
    status=415,
    slug="unsupported-media",
    title="This kind of content is not taken",
    meaning="The Content-Type, or what the bytes of a file really are, is not one we take.",
    what_to_do="Send JSON, or a JPEG, PNG, WebP, HEIC or TIFF photo, as the route documents.",
    members=UnsupportedMediaError(reason=PhotoReason.UNKNOWN_TYPE, found=Found.GIF).fields,
)
RATE_LIMITED = ProblemKind(
    status=429,
    slug="rate-limited",
    title="Too many requests",
    meaning="More requests came in than the policy in the RateLimit-Policy header allows.",
    what_to_do="Wait as long as Retry-After says.",
    members=errors.RateLimitedError(policy="user", retry_after_seconds=12).fields,
    retry_after_seconds=1,
)
INTERNAL = ProblemKind(
    status=500,
    slug="internal-error",
    title="Something broke on our side",
    meaning="An error that we did not expect. No credit is lost by it.",
    what_to_do="Try again; if it stays, tell us the request id.",
)
UNAVAILABLE = ProblemKind(
    status=503,
    slug="temporarily-unavailable",
    title="Temporarily unavailable",
    meaning="The database or a service that we depend on does not answer.",
    what_to_do="Send the same request again after Retry-After, with the same Idempotency-Key.",
    members=errors.TemporarilyUnavailableError(what="payments").fields,
    retry_after_seconds=5,
)

_INVALID_INPUT = ProblemKind(
    status=422,
    slug="invalid-input",
    title="A value cannot be used",
    meaning="The request is well formed, but a value breaks a rule. `field` and `reason` name it.",
    what_to_do="Change the value and send the request again.",
    members=errors.InvalidInputError(
        field="expires_at", reason=errors.InputReason.IN_THE_PAST
    ).fields,
)

BY_ERROR: dict[type[errors.DomainError], ProblemKind] = {
    NoIdentityError: UNAUTHENTICATED,
    InsufficientCreditsError: ProblemKind(
        status=402,
        slug="insufficient-credits",
        title="Not enough credits",
        meaning="The price is higher than the credits that are free to spend. Nothing was taken.",
        what_to_do="Buy credits, or wait for reserved ones to be refunded.",
        members=InsufficientCreditsError(required=2, available=0, debt=0).fields,
    ),
    errors.NotAllowedError: FORBIDDEN,
    errors.NotFoundError: NOT_FOUND,
    errors.ConflictError: ProblemKind(
        status=409,
        slug="conflict",
        title="Not possible in the present state",
        meaning="The thing is in a state that does not allow what was asked for.",
        what_to_do="Read its present state, then decide.",
        members=errors.ConflictError(
            reason=GenerationReason.ALREADY_FINISHED, state="succeeded"
        ).fields,
    ),
    errors.GoneError: ProblemKind(
        status=410,
        slug="gone",
        title="No longer there",
        meaning="The thing existed and has expired or was deleted.",
        what_to_do="Make a new one.",
        members=errors.GoneError(kind="late_image").fields,
    ),
    errors.InvalidInputError: _INVALID_INPUT,
    errors.QuotaError: ProblemKind(
        status=429,
        slug="quota-reached",
        title="A limit of your account is reached",
        meaning="Your account may have only so many of these at once or per day.",
        what_to_do="Wait until some of them are finished, or remove some.",
        members=errors.QuotaError(reason=UploadReason.UNFINISHED_UPLOADS, limit=200).fields,
        retry_after_seconds=30,
    ),
    LeaseLostError: ProblemKind(
        status=409,
        slug="lease-lost",
        title="Somebody else works on this now",
        meaning="The work was taken over while this request held it.",
        what_to_do="Read the present state, then decide.",
    ),
    errors.RequestInProgressError: ProblemKind(
        status=409,
        slug="request-in-progress",
        title="The same request is being carried out",
        meaning="Another request with the same Idempotency-Key has not ended yet.",
        what_to_do="Send the same request again after Retry-After; it answers what the first did.",
        members=errors.RequestInProgressError(retry_after_seconds=1).fields,
        retry_after_seconds=1,
    ),
    errors.IdempotencyMismatchError: ProblemKind(
        status=422,
        slug="idempotency-mismatch",
        title="This Idempotency-Key belongs to another request",
        meaning="The key was used within 24 hours with a different body.",
        what_to_do="Use a new key for a new request.",
    ),
    UnknownCodeError: ProblemKind(
        status=404,
        slug="code-not-valid",
        title="This code is not valid",
        meaning="No code that can be redeemed reads like this. Nothing was booked.",
        what_to_do="Type it as it is written. If it is right, ask whoever gave it to you.",
    ),
    ExpiredCodeError: ProblemKind(
        status=410,
        slug="code-expired",
        title="This code has expired",
        meaning="The code is right, but its time is over. Nothing was booked.",
        what_to_do="Ask whoever gave it to you for a new one.",
        members=ExpiredCodeError(expired_at=dt.datetime(2026, 12, 31, 23, tzinfo=dt.UTC)).fields,
    ),
    UsedUpCodeError: ProblemKind(
        status=409,
        slug="code-used-up",
        title="This code is used up",
        meaning="The code is right, but others have redeemed it before you. Nothing was booked.",
        what_to_do="Ask whoever gave it to you for a new one.",
    ),
    MoneyInvariantError: ProblemKind(
        status=500,
        slug="ledger-refused",
        title="The ledger refused this",
        meaning="A booking would contradict one that exists. Nothing was booked.",
        what_to_do="Tell us the request id.",
    ),
    errors.TemporarilyUnavailableError: UNAVAILABLE,
    errors.NotSetUpError: ProblemKind(
        status=503,
        slug="not-set-up",
        title="Not set up here",
        meaning="This installation does not offer it, because the operator has given no key.",
        what_to_do="Trying again does not help; ask the operator.",
        members=errors.NotSetUpError(what="payments").fields,
    ),
    errors.WebhookRefusedError: ProblemKind(
        status=400,
        slug="webhook-refused",
        title="This webhook is not taken",
        meaning="Its signature is none of ours, its time is over, or it is no event for us.",
        what_to_do="Compare the endpoint's secret and mode with those that the server was given.",
        members=errors.WebhookRefusedError(reason=errors.WebhookReason.SIGNATURE).fields,
    ),
    BadCredentialsError: ProblemKind(
        status=401,
        slug="bad-credentials",
        title="Not accepted",
        meaning="The password, token, link or one-time code is wrong, used or expired.",
        what_to_do="Check it, or ask for a new link or code.",
        members=BadCredentialsError(reason=AccessReason.INVALID_CREDENTIALS).fields,
    ),
    errors.RateLimitedError: RATE_LIMITED,
    UnsupportedMediaError: UNSUPPORTED_MEDIA,
    PayloadTooLargeError: PAYLOAD_TOO_LARGE,
}

BY_STATUS: dict[int, ProblemKind] = {
    kind.status: kind
    for kind in (
        INVALID_REQUEST,
        UNAUTHENTICATED,
        FORBIDDEN,
        NOT_FOUND,
        METHOD_NOT_ALLOWED,
        NOT_ACCEPTABLE,
        TOO_SLOW,
        PAYLOAD_TOO_LARGE,
        UNSUPPORTED_MEDIA,
        RATE_LIMITED,
        INTERNAL,
        UNAVAILABLE,
    )
}

KINDS: dict[str, ProblemKind] = {
    kind.slug: kind for kind in (*BY_STATUS.values(), *BY_ERROR.values())
}


class _KindExample(Example):
    """The id is the key in `examples`; within an example OpenAPI knows no such member."""

    @property
    def _exclude_fields(self) -> set[str]:
        return {"id"}


def kind_of(error: errors.DomainError) -> ProblemKind:
    for cls in type(error).__mro__:
        kind = BY_ERROR.get(cls)
        if kind is not None:
            return kind
    return INTERNAL


def type_uri(base_url: str, kind: ProblemKind) -> str:
    return f"{base_url}/problems/{kind.slug}"


def document(
    kind: ProblemKind,
    *,
    base_url: str,
    instance: str,
    request_id: str,
    fields: Mapping[str, Any] | None = None,
    field_errors: list[FieldError] | None = None,
) -> dict[str, Any]:
    """The problem document. `fields` of a domain error become members of their own names."""
    given = dict(fields or {})
    listed = given.pop("errors", None) or field_errors
    body: dict[str, Any] = {
        "type": type_uri(base_url, kind),
        "title": kind.title,
        "status": kind.status,
        "detail": _detail(kind, given),
        "instance": instance,
        "request_id": request_id,
    }
    if listed:
        body["errors"] = listed
    body.update({name: value for name, value in given.items() if name not in _RESERVED})
    return body


def _detail(kind: ProblemKind, given: Mapping[str, Any]) -> str:
    for key in (f"reason.{given.get('reason')}", f"problem.{kind.slug}"):
        if key in SENTENCES and figures_of(key) <= set(given):
            return say(key, **given)
    return f"{kind.title}."  # a figure is missing, which the tests find


def raises(
    *domain_errors: type[errors.DomainError], public: bool = False, body: bool = False
) -> dict[int, ResponseSpec]:
    """The `responses=` of a route: its own domain errors and those that every route has.

    `public`: the route needs no sign-in. `body`: it reads one, so 408, 413 and 415 are possible.
    """
    kinds = [INVALID_REQUEST, RATE_LIMITED, INTERNAL, UNAVAILABLE]
    if not public:
        kinds += [UNAUTHENTICATED, BY_ERROR[BadCredentialsError]]
    if body:
        kinds += [TOO_SLOW, PAYLOAD_TOO_LARGE, UNSUPPORTED_MEDIA]
    kinds += [BY_ERROR[cls] for cls in domain_errors]
    grouped: dict[int, dict[str, ProblemKind]] = {}
    for kind in kinds:
        grouped.setdefault(kind.status, {})[kind.slug] = kind
    return {status: _response_spec(list(group.values())) for status, group in grouped.items()}


def _response_spec(kinds: list[ProblemKind]) -> ResponseSpec:
    return ResponseSpec(
        data_container=ProblemDetails,
        generate_examples=False,
        description=" / ".join(kind.title for kind in kinds),
        media_type=MEDIA_TYPE,
        examples=[
            _KindExample(
                id=kind.slug, summary=kind.title, description=kind.meaning, value=example(kind)
            )
            for kind in kinds
        ],
    )


def example(kind: ProblemKind, *, base_url: str = "https://api.example.com") -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(
        document(
            kind,
            base_url=base_url,
            instance="/v1/example",
            request_id="0192f3a1b2c37d4e8f90a1b2c3d4e5f6",
            fields=kind.members,
        )
    )
    return shown
