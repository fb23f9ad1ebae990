"""The Auth server's refusals, in the two shapes that clients know.

Clients that send `X-Supabase-Api-Version: 2024-01-01` get `{code, message}` and two headers; all
others the older `{code: <status>, error_code, msg}`.
"""

from collections.abc import Mapping
from typing import Any

from litestar import Response

API_VERSION = "2024-01-01"


class AuthError(Exception):
    """`extra` is merged into the body (only `weak_password` has any)."""

    def __init__(
        self, status: int, code: str, message: str, *, extra: dict[str, Any] | None = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.extra = extra or {}


class KeptError(AuthError):
    """A refusal whose changes stay: the transaction commits before it is raised."""


class OAuthError(Exception):
    """The OAuth-style body that a few token errors have, whatever the API version."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(error)
        self.body = {"error": error, "error_description": description}


def error_response(error: AuthError, headers: Mapping[str, str]) -> Response[dict[str, Any]]:
    if headers.get("x-supabase-api-version", "") >= API_VERSION:
        body: dict[str, Any] = {"code": error.code, "message": error.message}
        answered = {"X-Supabase-Api-Version": API_VERSION, "x-sb-error-code": error.code}
    else:
        body = {"code": error.status, "error_code": error.code, "msg": error.message}
        answered = {"x-sb-error-code": error.code}
    return Response(body | error.extra, status_code=error.status, headers=answered)


def invalid(message: str) -> AuthError:
    return AuthError(400, "validation_failed", message)


def email_exists() -> AuthError:
    message = "A user with this email address has already been registered"
    return AuthError(422, "email_exists", message)


def user_not_found() -> AuthError:
    return AuthError(404, "user_not_found", "User not found")


def email_rate_exceeded() -> AuthError:
    return AuthError(429, "over_email_send_rate_limit", "email rate limit exceeded")
