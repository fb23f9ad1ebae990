"""Refusals in Stripe's shape: `{"error": {"type", "code", "message", "param", ...}}`."""

from typing import Any

DOCS = "https://stripe.com/docs/error-codes/"


class ApiError(Exception):
    """The answer that the client gets instead of an object.

    `stored`: whether repeats under the idempotency key get it. Validation is before execution, and
    only the outcome of an execution is stored.  https://docs.stripe.com/api/idempotent_requests
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type_: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        stored: bool = True,
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.stored = stored
        self.error: dict[str, Any] = {"message": message, "type": type_, **more}
        if code is not None:
            self.error |= {"code": code, "doc_url": DOCS + code.replace("_", "-")}
        if param is not None:
            self.error["param"] = param

    @property
    def body(self) -> dict[str, Any]:
        return {"error": self.error}


def invalid(message: str, *, code: str | None = None, param: str | None = None) -> ApiError:
    return ApiError(400, message, code=code, param=param)


def malformed(message: str, *, code: str | None = None, param: str | None = None) -> ApiError:
    """As `invalid`, found before the request began to execute."""
    return ApiError(400, message, code=code, param=param, stored=False)


def missing(kind: str, id_: str, *, param: str = "id", status: int = 404) -> ApiError:
    noun = kind.replace("_", " ") if kind != "payment_intent" else kind
    return ApiError(status, f"No such {noun}: '{id_}'", code="resource_missing", param=param)


def unauthorized(message: str) -> ApiError:
    return ApiError(401, message, stored=False)


def server_error(status: int = 500, *, stored: bool = True) -> ApiError:
    return ApiError(
        status,
        "An unknown error occurred",
        type_="api_error",
        stored=stored,
    )


def rate_limited() -> ApiError:
    return ApiError(
        429,
        "Request rate limit exceeded. Learn more about rate limits here "
        "https://stripe.com/docs/rate-limits.",
        code="rate_limit",
        stored=False,
    )


def key_reused(key: str) -> ApiError:
    return ApiError(
        400,
        "Keys for idempotent requests can only be used with the same parameters they were first "
        f"used with. Try using a key other than '{key}' if you meant to execute a different "
        "request.",
        type_="idempotency_error",
        stored=False,
    )


def key_in_use(key: str) -> ApiError:
    return ApiError(
        409,
        "There is currently another in-progress request using this Idempotent Key (that probably "
        "means you submitted twice, and the other request is still going through): "
        f"{key}. Please try again later.",
        type_="idempotency_error",
        code="idempotency_key_in_use",
        stored=False,
    )
