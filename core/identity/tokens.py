"""Access tokens of Supabase Auth: verification by JWKS, or by the legacy shared secret.

Holds a small cache of tokens that were verified already, because a signature check costs more
than the rest of a cheap request. It uses no HTTP of ours and no SQL.
"""

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

from core.identity.errors import AccessReason, BadCredentialsError
from core.jwks import Entries, KeySet
from core.settings import Settings

log = structlog.get_logger()

ASYMMETRIC = ("ES256", "RS256")
AUDIENCE = "authenticated"
JWKS_SECONDS = 600.0  # Supabase's edge and its own client cache the set as long
# For tokens with an unknown key id: five fetches at once, then one in this time.
REFETCH_SECONDS = 2.0
REFETCH_BURST = 5
LEEWAY_SECONDS = 30  # clocks of machines that nobody looks after
TOKENS_MAX = 4096
TOKEN_BYTES_MAX = 16_384
_EXPIRES_MAX = 253_402_300_799  # the last second of the year 9999: what a date can say
# What a payload of the right signature and the wrong types makes of its checks.
_MALFORMED = (ValueError, TypeError, OverflowError, RecursionError)
_REQUIRED = ["exp", "sub", "aud", "iss", "role", "session_id"]
# The first is written by the user: of any size, and no policy may rely on it. The second is ours.
_DROPPED = frozenset({"user_metadata", "break_glass"})

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
        refetch_seconds: float = REFETCH_SECONDS,
    ) -> None:
        self._issuer = settings.jwt_issuer
        secret = settings.supabase_jwt_secret
        self._secret = secret.get_secret_value() if secret else None
        self._algorithms = [*ASYMMETRIC, *(["HS256"] if self._secret else [])]
        self._now = now
        self._keys = KeySet(
            http,
            settings.jwks_url,
            what="sign_in",
            read=_read_keys,
            fresh_seconds=JWKS_SECONDS,
            retry_seconds=REFETCH_SECONDS,
            refetch_seconds=refetch_seconds,
            refetch_burst=REFETCH_BURST,
            now=now,
        )
        self._tokens: OrderedDict[bytes, _Verified] = OrderedDict()

    async def verify(self, token: str) -> Claims:
        """The claims of a valid token.

        Raises: BadCredentialsError (reason); TemporarilyUnavailableError when there is no key
        set yet and the endpoint does not answer.
        """
        if len(token) > TOKEN_BYTES_MAX:
            raise BadCredentialsError(reason=AccessReason.MALFORMED_TOKEN)
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._tokens.get(digest)
        if known is not None and self._is_signed_with_a_known_key(known):
            return self._find_cached(digest, known)
        key_id, key = await self._key_for(token)
        claims = self._decode(token, key)
        self._tokens[digest] = _Verified(claims, key_id)
        if len(self._tokens) > TOKENS_MAX:
            self._tokens.popitem(last=False)
        return claims

    async def close(self) -> None:
        await self._keys.close()

    def _is_signed_with_a_known_key(self, known: _Verified) -> bool:
        """A revoked key ends the tokens that it signed, also cached ones."""
        if not known.key_id:
            return True
        keys = self._keys.find()
        return keys is not None and known.key_id in keys

    def _find_cached(self, digest: bytes, known: _Verified) -> Claims:
        if known.claims.expires_at + LEEWAY_SECONDS <= self._now():
            del self._tokens[digest]
            raise BadCredentialsError(reason=AccessReason.EXPIRED_TOKEN)
        self._tokens.move_to_end(digest)
        return known.claims

    async def _key_for(self, token: str) -> tuple[str, Key | str]:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise BadCredentialsError(reason=AccessReason.MALFORMED_TOKEN) from error
        algorithm = header.get("alg")
        if algorithm not in self._algorithms:
            raise BadCredentialsError(reason=AccessReason.ALGORITHM_NOT_ALLOWED)
        if algorithm == "HS256":
            assert self._secret is not None
            return "", self._secret
        key_id = header.get("kid")
        if not isinstance(key_id, str) or not key_id:
            raise BadCredentialsError(reason=AccessReason.UNKNOWN_KEY)
        key = await self._find_key(key_id)
        if key.algorithm_name != algorithm:
            raise BadCredentialsError(reason=AccessReason.ALGORITHM_NOT_ALLOWED)
        return key_id, key

    async def _find_key(self, key_id: str) -> Key:
        keys = await self._keys.get()
        key = keys.get(key_id)
        if key is None:
            key = (await self._keys.get_newer(keys)).get(key_id)
        if key is None:
            raise BadCredentialsError(reason=AccessReason.UNKNOWN_KEY)
        return key

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
            raise BadCredentialsError(reason=AccessReason.EXPIRED_TOKEN) from error
        except jwt.ImmatureSignatureError as error:
            # Signed by Supabase and not valid yet: this machine's clock is behind, for everybody.
            log.warning("auth.clock_is_behind", leeway_seconds=LEEWAY_SECONDS)
            raise BadCredentialsError(reason=AccessReason.INVALID_TOKEN) from error
        except (jwt.PyJWTError, *_MALFORMED) as error:
            raise BadCredentialsError(reason=AccessReason.INVALID_TOKEN) from error
        return _read_claims(payload)


def _read_claims(payload: dict[str, Any]) -> Claims:
    """Raises: BadCredentialsError for a signed token that is not a user's."""
    aal = payload.get("aal")
    app_metadata = payload.get("app_metadata")
    app_role = app_metadata.get("role") if isinstance(app_metadata, dict) else None
    email = payload.get("email")
    try:
        user_id = uuid.UUID(payload["sub"])
        session_id = str(uuid.UUID(payload["session_id"]))
    except (ValueError, TypeError, AttributeError) as error:
        raise BadCredentialsError(reason=AccessReason.INVALID_TOKEN) from error
    if int(payload["exp"]) > _EXPIRES_MAX:
        raise BadCredentialsError(reason=AccessReason.INVALID_TOKEN)
    if payload["role"] != "authenticated":
        raise BadCredentialsError(reason=AccessReason.NOT_A_USER_TOKEN)
    return Claims(
        user_id=user_id,
        session_id=session_id,
        role=payload["role"],
        aal=aal if isinstance(aal, str) and aal in {"aal1", "aal2", "aal3"} else "aal1",
        email=email if isinstance(email, str) and email else None,
        app_role=app_role if isinstance(app_role, str) else None,
        expires_at=int(payload["exp"]),
        # In the spelling that the database reads, too.
        payload={name: value for name, value in payload.items() if name not in _DROPPED}
        | {"sub": str(user_id), "session_id": session_id},
    )


def _read_keys(entries: Entries) -> dict[str, Key]:
    """The usable keys of a set. Keys of an unknown kind are passed over."""
    keys: dict[str, Key] = {}
    for entry in entries:
        key_id = entry.get("kid")
        if entry.get("kty") not in {"EC", "RSA"} or not isinstance(key_id, str):
            continue
        try:
            key = jwt.PyJWK(dict(entry))
        except (jwt.PyJWTError, ValueError, KeyError, AttributeError, TypeError) as error:
            log.warning("auth.jwks_key_ignored", error=type(error).__name__)
            continue
        if key.algorithm_name in ASYMMETRIC:
            keys[key_id] = key
    return keys
