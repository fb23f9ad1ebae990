"""Access tokens of Supabase Auth: verification by JWKS, or by the legacy shared secret.

Owns the key set and a small memory of tokens that were verified already, because a signature
check costs more than the rest of a cheap request. It knows no HTTP of ours and no SQL.
"""

import asyncio
import hashlib
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import jwt
import msgspec
import structlog

from core.errors import BadCredentialsError, TemporarilyUnavailableError
from core.settings import Settings

log = structlog.get_logger()

ASYMMETRIC = ("ES256", "RS256")
AUDIENCE = "authenticated"
JWKS_SECONDS = 600.0  # Supabase's edge and its own client cache the set as long
REFETCH_SECONDS = 10.0  # at most one fetch per this time for tokens with an unknown key id
FETCH_TIMEOUT_SECONDS = 5.0
LEEWAY_SECONDS = 5
TOKENS_MAX = 4096
TOKEN_BYTES_MAX = 16_384
_REQUIRED = ["exp", "sub", "aud", "iss", "role", "session_id"]
# Written by the user, so of no worth to a policy, and of any size.
_DROPPED = frozenset({"user_metadata"})

Key = jwt.PyJWK


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """A verified token. `payload` is what policies see as request.jwt.claims."""

    user_id: uuid.UUID
    session_id: str
    role: str
    aal: str
    email: str | None
    app_role: str | None
    expires_at: int
    payload: Mapping[str, Any]

    @property
    def is_admin(self) -> bool:
        return self.app_role == "admin"


class _Verified(msgspec.Struct, frozen=True):
    claims: Claims
    key_id: str


class TokenVerifier:
    def __init__(
        self,
        settings: Settings,
        http: httpx.AsyncClient,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._issuer = settings.jwt_issuer
        self._jwks_url = settings.jwks_url
        secret = settings.supabase_jwt_secret
        self._secret = secret.get_secret_value() if secret else None
        self._algorithms = [*ASYMMETRIC, *(["HS256"] if self._secret else [])]
        self._http = http
        self._now = now
        self._keys: dict[str, Key] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetch_lock = asyncio.Lock()
        self._refresh: asyncio.Task[None] | None = None
        self._tokens: OrderedDict[bytes, _Verified] = OrderedDict()

    async def verify(self, token: str) -> Claims:
        """The claims of a valid token.

        Raises: BadCredentialsError (reason); TemporarilyUnavailableError when there is no key
        set yet and the endpoint does not answer.
        """
        if len(token) > TOKEN_BYTES_MAX:
            raise BadCredentialsError(reason="malformed_token")
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._tokens.get(digest)
        if known is not None:
            return self._remembered(digest, known)
        key_id, key = await self._key_for(token)
        claims = self._decode(token, key)
        self._tokens[digest] = _Verified(claims, key_id)
        if len(self._tokens) > TOKENS_MAX:
            self._tokens.popitem(last=False)
        return claims

    async def close(self) -> None:
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.gather(self._refresh, return_exceptions=True)

    def _remembered(self, digest: bytes, known: _Verified) -> Claims:
        if known.claims.expires_at + LEEWAY_SECONDS <= self._now():
            del self._tokens[digest]
            raise BadCredentialsError(reason="expired_token")
        self._tokens.move_to_end(digest)
        if known.key_id and self._is_stale():
            self._refresh_in_background()
        return known.claims

    async def _key_for(self, token: str) -> tuple[str, Key | str]:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError) as error:
            raise BadCredentialsError(reason="malformed_token") from error
        algorithm = header.get("alg")
        if algorithm not in self._algorithms:
            raise BadCredentialsError(reason="algorithm_not_allowed")
        if algorithm == "HS256":
            assert self._secret is not None
            return "", self._secret
        key_id = header.get("kid")
        if not isinstance(key_id, str) or not key_id:
            raise BadCredentialsError(reason="unknown_key")
        key = await self._find_key(key_id)
        if key.algorithm_name != algorithm:
            raise BadCredentialsError(reason="algorithm_not_allowed")
        return key_id, key

    async def _find_key(self, key_id: str) -> Key:
        if self._fetched_at is None:
            await self._fetch(unless_newer_than=None)
        elif self._is_stale():
            self._refresh_in_background()
        key = self._keys.get(key_id)
        if key is None and self._may_refetch():
            await self._fetch(unless_newer_than=self._fetched_at)
            key = self._keys.get(key_id)
        if key is None:
            if self._fetched_at is None:
                raise TemporarilyUnavailableError(what="sign-in service")
            raise BadCredentialsError(reason="unknown_key")
        return key

    def _is_stale(self) -> bool:
        return self._fetched_at is not None and self._now() - self._fetched_at > JWKS_SECONDS

    def _may_refetch(self) -> bool:
        return self._tried_at is None or self._now() - self._tried_at > REFETCH_SECONDS

    def _refresh_in_background(self) -> None:
        if (self._refresh is None or self._refresh.done()) and self._may_refetch():
            self._refresh = asyncio.create_task(self._fetch(unless_newer_than=self._fetched_at))

    async def _fetch(self, *, unless_newer_than: float | None) -> None:
        """Fetch the key set once for all that wait; a failure keeps the keys we have."""
        async with self._fetch_lock:
            if self._fetched_at != unless_newer_than:
                return
            if self._fetched_at is None and not self._may_refetch():
                return
            self._tried_at = self._now()
            try:
                response = await self._http.get(self._jwks_url, timeout=FETCH_TIMEOUT_SECONDS)
                response.raise_for_status()
                keys = _read_keys(response.json())
            except (httpx.HTTPError, ValueError, AttributeError, TypeError) as error:
                log.warning("auth.jwks_fetch_failed", error=type(error).__name__)
                return
            self._keys = keys
            self._fetched_at = self._now()
            self._forget_removed_keys()

    def _forget_removed_keys(self) -> None:
        """A revoked key ends the tokens that it signed, also those we remember."""
        removed = [
            digest
            for digest, verified in self._tokens.items()
            if verified.key_id and verified.key_id not in self._keys
        ]
        for digest in removed:
            del self._tokens[digest]

    def _decode(self, token: str, key: Key | str) -> Claims:
        try:
            payload = jwt.decode(
                token,
                key,
                algorithms=self._algorithms if isinstance(key, str) else list(ASYMMETRIC),
                audience=AUDIENCE,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": _REQUIRED},
            )
        except jwt.ExpiredSignatureError as error:
            raise BadCredentialsError(reason="expired_token") from error
        except (jwt.PyJWTError, ValueError) as error:
            raise BadCredentialsError(reason="invalid_token") from error
        return _read_claims(payload)


def _read_claims(payload: dict[str, Any]) -> Claims:
    """Raises: BadCredentialsError for a signed token that is not a user's."""
    app_metadata = payload.get("app_metadata")
    app_role = app_metadata.get("role") if isinstance(app_metadata, dict) else None
    email = payload.get("email")
    try:
        user_id = uuid.UUID(payload["sub"])
        session_id = str(uuid.UUID(payload["session_id"]))
    except (ValueError, TypeError, AttributeError) as error:
        raise BadCredentialsError(reason="invalid_token") from error
    if payload["role"] != "authenticated":
        raise BadCredentialsError(reason="not_a_user_token")
    return Claims(
        user_id=user_id,
        session_id=session_id,
        role=payload["role"],
        aal=payload["aal"] if payload.get("aal") in {"aal1", "aal2", "aal3"} else "aal1",
        email=email if isinstance(email, str) and email else None,
        app_role=app_role if isinstance(app_role, str) else None,
        expires_at=int(payload["exp"]),
        payload={name: value for name, value in payload.items() if name not in _DROPPED},
    )


def _read_keys(document: Mapping[str, Any]) -> dict[str, Key]:
    """The usable keys of a set. One of a kind we do not take must not spoil the others."""
    keys: dict[str, Key] = {}
    for entry in document.get("keys", []):
        key_id = entry.get("kid")
        if entry.get("kty") not in {"EC", "RSA"} or not isinstance(key_id, str):
            continue
        try:
            key = jwt.PyJWK(entry)
        except (jwt.PyJWTError, ValueError, KeyError) as error:
            log.warning("auth.jwks_key_ignored", error=type(error).__name__)
            continue
        if key.algorithm_name in ASYMMETRIC:
            keys[key_id] = key
    return keys
