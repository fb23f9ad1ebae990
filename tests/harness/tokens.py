"""Access tokens as Supabase Auth issues them, signed by a key of the test's own."""

import time
import uuid
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.harness.database import TestDatabase

JWKS_PATH = "/auth/v1/.well-known/jwks.json"


class TokenIssuer:
    """Signs tokens for `supabase_url` and answers for its key set.

    With a `database`, whoever gets a token is signed in there.
    """

    def __init__(self, supabase_url: str, database: TestDatabase | None = None) -> None:
        self._database = database
        self.issuer = f"{supabase_url}/auth/v1"
        self.jwks: list[dict[str, Any]] = []
        self.fetches = 0
        self.is_down = False
        self._keys: dict[str, tuple[Any, str]] = {}
        self.key_id = self.add_key()

    def add_key(self, algorithm: str = "ES256") -> str:
        """A new key in the set, used from now on."""
        key_id = uuid.uuid4().hex
        if algorithm == "ES256":
            key: Any = ec.generate_private_key(ec.SECP256R1())
            public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        else:
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        self.jwks.append({**public, "kid": key_id, "alg": algorithm, "use": "sig"})
        self._keys[key_id] = (key, algorithm)
        self.key_id = key_id
        return key_id

    def remove_key(self, key_id: str) -> None:
        self.jwks = [key for key in self.jwks if key["kid"] != key_id]

    def claims(self, user_id: uuid.UUID | None = None, **changes: Any) -> dict[str, Any]:
        """A payload; a change to None leaves the claim out."""
        now = int(time.time())
        subject = user_id or uuid.uuid4()
        payload = {
            "iss": self.issuer,
            "sub": str(subject),
            "aud": "authenticated",
            "iat": now,
            "exp": now + 3600,
            "role": "authenticated",
            "aal": "aal1",
            "session_id": str(subject),
            "email": "ada@example.com",
            "app_metadata": {"provider": "email"},
            "user_metadata": {"nickname": "ada"},
            **changes,
        }
        if self._database is not None:
            role = payload["app_metadata"].get("role")
            self._database.sign_in(subject, aal=payload["aal"], role=role)
            if payload["aal"] == "aal2":
                payload = {"amr": self._database.proof_of_factor(), **payload}
        return {name: value for name, value in payload.items() if value is not None}

    def token(
        self, user_id: uuid.UUID | None = None, *, key_id: str | None = None, **changes: Any
    ) -> str:
        chosen = key_id or self.key_id
        key, algorithm = self._keys[chosen]
        return jwt.encode(
            self.claims(user_id, **changes), key, algorithm=algorithm, headers={"kid": chosen}
        )

    def headers(self, user_id: uuid.UUID | None = None, **changes: Any) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(user_id, **changes)}"}

    def transport(self) -> httpx.MockTransport:
        """Answers the key set and nothing else."""
        return httpx.MockTransport(self.answer)

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != JWKS_PATH:
            return httpx.Response(404, json={"code": "not_found"})
        self.fetches += 1
        if self.is_down:
            raise httpx.ConnectError("the key set is away", request=request)
        return httpx.Response(200, json={"keys": self.jwks})
