"""What stands in front of Auth and Storage on the platform: API keys are swapped for roles.

`sb_publishable_…` and `sb_secret_…` are no JWTs. They come in `apikey`; the same value is tolerated
as a bearer token, because the official client sends it there, and nothing else starting with `sb_`.
"""

from collections.abc import Mapping
from typing import Any

import jwt
import msgspec

from sandbox.supabase.config import SupabaseConfig
from sandbox.supabase.keystore import KeyStore, TokenError


class GatewayError(Exception):
    """Answered by the gateway, before Auth or Storage see the request: always a 401."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.body = {"message": message, "hint": hint}


class Credentials(msgspec.Struct, frozen=True):
    """`key_role` is the API key's role; `token` a bearer token that is not the key itself."""

    key_role: str | None
    token: str | None
    has_bearer: bool

    @property
    def is_secret(self) -> bool:
        return self.key_role == "service_role"


def bearer_token(headers: Mapping[str, str]) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.casefold() == "bearer" else None


def _role_of_key(key: str, config: SupabaseConfig, keys: KeyStore) -> str:
    if key == config.publishable_key:
        return "anon"
    if key == config.secret_key:
        return "service_role"
    if config.jwt_secret is not None and key.count(".") == 2:
        try:
            role = keys.verify_access(key).get("role")
        except TokenError:
            role = None
        if role in {"anon", "service_role"}:
            return str(role)
    raise GatewayError(
        "Invalid API key", "Double check the API key that is sent in the `apikey` header."
    )


def read_credentials(
    headers: Mapping[str, str], config: SupabaseConfig, keys: KeyStore
) -> Credentials:
    """Raises: GatewayError for a key that is unknown, or used where it must not be."""
    key = headers.get("apikey")
    token = bearer_token(headers)
    if not key:
        return Credentials(key_role=None, token=token, has_bearer=token is not None)
    role = _role_of_key(key, config, keys)
    if role == "service_role" and headers.get("user-agent", "").startswith("Mozilla/"):
        raise GatewayError(
            "Forbidden use of secret API key in browser",
            "Secret API keys can only be used in a protected environment.",
        )
    if token == key:
        return Credentials(key_role=role, token=None, has_bearer=True)
    if token is not None and token.startswith("sb_"):
        raise GatewayError(
            "Invalid API key", "An API key in `Authorization` must be the one in `apikey`."
        )
    return Credentials(key_role=role, token=token, has_bearer=token is not None)


def legacy_api_keys(jwt_secret: str) -> tuple[str, str]:
    """The (anon, service_role) keys of a legacy project: JWTs signed with its secret."""
    anon, service = (_legacy_key(role, jwt_secret) for role in ("anon", "service_role"))
    return anon, service


def _legacy_key(role: str, jwt_secret: str) -> str:
    claims: dict[str, Any] = {"iss": "supabase", "role": role, "iat": 1_700_000_000}
    return jwt.encode(claims | {"exp": 2_000_000_000}, jwt_secret, algorithm="HS256")
