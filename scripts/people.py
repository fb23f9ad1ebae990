"""Verified users with credits, made by SQL for measurements and tests: no sign-up takes place."""

import json
import time
import uuid
from typing import Any

import jwt
import msgspec
import psycopg

from sandbox.stack.product import Product

CREDITS = 1_000_000
TOKEN_SECONDS = 7200


class Person(msgspec.Struct, frozen=True):
    """A user whose access token the API accepts, with a photo that is ready to be used."""

    user_id: uuid.UUID
    upload_id: uuid.UUID
    token: str
    claims: dict[str, Any]

    @property
    def claims_json(self) -> str:
        return json.dumps(self.claims, separators=(",", ":"))


def make_claims(product: Product, user_id: uuid.UUID) -> dict[str, Any]:
    """The claims of an access token as Supabase Auth issues it."""
    now = int(time.time())
    return {
        "iss": f"{product.supabase_url}/auth/v1",
        "sub": str(user_id),
        "aud": "authenticated",
        "role": "authenticated",
        "email": f"{user_id}@people.example",
        "session_id": str(uuid.uuid4()),
        "aal": "aal1",
        "iat": now,
        "exp": now + TOKEN_SECONDS,
        "app_metadata": {"provider": "email"},
    }


def sign(claims: dict[str, Any], jwt_secret: str) -> str:
    """The access token of a project that still signs with a shared secret."""
    return jwt.encode(claims, jwt_secret, algorithm="HS256")


def insert_user(conn: psycopg.Connection[Any], claims: dict[str, Any]) -> None:
    """The user of these claims, verified, with `CREDITS` that an admin gave."""
    user_id = uuid.UUID(claims["sub"])
    conn.execute(
        "insert into auth.users (id, email, email_confirmed_at) values (%s, %s, now())",
        (user_id, claims["email"]),
    )
    conn.execute(
        "insert into auth.sessions (id, user_id, aal) values (%s, %s, 'aal1')",
        (claims["session_id"], user_id),
    )
    conn.execute("insert into app.users (id) values (%s)", (user_id,))
    conn.execute("insert into app.credit_accounts (user_id) values (%s)", (user_id,))
    reason = "measurement"
    conn.execute(
        "select app.grant_credits(%s, %s, 'adjustment', %s, null, null, 'system', %s)",
        (user_id, CREDITS, f"admin:{user_id}:people", reason),
    )
    terms = {"amount": CREDITS, "reason": reason, "idempotency_key": "people"}
    conn.execute(
        "select app.write_audit('credits.adjust', %s, %s)", (str(user_id), json.dumps(terms))
    )
