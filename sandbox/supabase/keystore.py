"""The keys of a project: ES256 for access tokens, HS256 for signed storage URLs.

Kept in `<data_dir>/keys.json`, so that tokens and links outlive a restart. Rotation keeps the old
key in the JWKS until it is revoked, as the platform does.
"""

import os
import secrets
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import jwt
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm


class TokenError(Exception):
    """A bearer token that does not verify."""

    def __init__(self, kind: Literal["malformed", "expired", "signature"]) -> None:
        super().__init__(kind)
        self.kind = kind


class _StoredKey(msgspec.Struct, frozen=True):
    kid: str
    private_pem: str


class _StoredKeys(msgspec.Struct):
    signing: list[_StoredKey]  # the first one signs, all verify
    storage_secret: str


def _new_key() -> _StoredKey:
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return _StoredKey(kid=str(uuid4()), private_pem=pem.decode())


class KeyStore:
    """Signs and verifies; `jwt_secret` turns it into a legacy HS256 project."""

    def __init__(self, data_dir: Path, *, jwt_secret: str | None) -> None:
        self._path = data_dir / "keys.json"
        self._jwt_secret = jwt_secret
        if self._path.exists():
            self._stored = msgspec.json.decode(self._path.read_bytes(), type=_StoredKeys)
        else:
            self._stored = _StoredKeys(
                signing=[_new_key()], storage_secret=secrets.token_urlsafe(48)
            )
            self._save()
        self._load()

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(self._stored))
        temporary.replace(self._path)

    def _load(self) -> None:
        self._private: dict[str, ec.EllipticCurvePrivateKey] = {}
        for stored in self._stored.signing:
            key = serialization.load_pem_private_key(stored.private_pem.encode(), password=None)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            self._private[stored.kid] = key
        self._public = {kid: key.public_key() for kid, key in self._private.items()}

    @property
    def current_kid(self) -> str:
        return self._stored.signing[0].kid

    def rotate(self, *, revoke_previous: bool = False) -> str:
        """A new key signs from now on; the old ones still verify unless revoked."""
        previous = [] if revoke_previous else self._stored.signing
        self._stored.signing = [_new_key(), *previous]
        self._save()
        self._load()
        return self.current_kid

    def jwks(self) -> dict[str, Any]:
        if self._jwt_secret is not None:
            return {"keys": []}
        return {
            "keys": [
                ECAlgorithm.to_jwk(public, as_dict=True)
                | {"alg": "ES256", "kid": kid, "use": "sig", "key_ops": ["verify"]}
                for kid, public in self._public.items()
            ]
        }

    def sign_access(self, claims: dict[str, Any]) -> str:
        if self._jwt_secret is not None:
            return jwt.encode(claims, self._jwt_secret, algorithm="HS256")
        kid = self.current_kid
        return jwt.encode(claims, self._private[kid], algorithm="ES256", headers={"kid": kid})

    def verify_access(self, token: str) -> dict[str, Any]:
        """The claims; audience and issuer are the caller's business, as with the real server.

        Raises: TokenError.
        """
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError as error:
            raise TokenError("malformed") from error
        key: Any
        if self._jwt_secret is not None:
            key, algorithm = self._jwt_secret, "HS256"
        else:
            key, algorithm = self._public.get(header.get("kid", "")), "ES256"
        if key is None or header.get("alg") != algorithm:
            raise TokenError("signature")
        return _decode(token, key, algorithm)

    def sign_storage(self, claims: dict[str, Any]) -> str:
        secret = self._stored.storage_secret
        return jwt.encode(claims, secret, algorithm="HS256", headers={"typ": None})

    def verify_storage(self, token: str) -> dict[str, Any]:
        """Raises: TokenError."""
        return _decode(token, self._stored.storage_secret, "HS256")


def _decode(token: str, key: Any, algorithm: str) -> dict[str, Any]:
    try:
        claims: dict[str, Any] = jwt.decode(
            token, key, algorithms=[algorithm], options={"verify_aud": False, "verify_iat": False}
        )
    except jwt.ExpiredSignatureError as error:
        raise TokenError("expired") from error
    except jwt.InvalidSignatureError as error:
        raise TokenError("signature") from error
    except jwt.PyJWTError as error:
        raise TokenError("malformed") from error
    return claims
