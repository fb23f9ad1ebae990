"""Users with credits and a ready photo for measurements, made by SQL: no sign-up is measured."""

import json
import time
import uuid
from typing import Any

import jwt
import msgspec
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from sandbox.stack.product import Product

CREDITS = 1_000_000


class Person(msgspec.Struct, frozen=True):
    """A user whose access token the API accepts, with a photo that is ready to be used."""

    user_id: uuid.UUID
    upload_id: uuid.UUID
    token: str
    claims: dict[str, Any]

    @property
    def claims_json(self) -> str:
        return json.dumps(self.claims, separators=(",", ":"))


def make_people(
    product: Product, count: int, *, jwt_secret: str, normal_key: str = "bench/normal.jpg"
) -> list[Person]:
    """`count` verified people with a million credits each. The photo is a row without bytes
    unless `normal_key` names an object of the uploads bucket."""
    people = [_person(product, jwt_secret) for _ in range(count)]
    with psycopg.connect(product.stack.postgres.url(), row_factory=dict_row) as conn:
        for person in people:
            _insert(conn, person, normal_key)
    return people


def _person(product: Product, jwt_secret: str) -> Person:
    user_id, now = uuid.uuid4(), int(time.time())
    claims = {
        "iss": f"{product.supabase_url}/auth/v1",
        "sub": str(user_id),
        "aud": "authenticated",
        "role": "authenticated",
        "email": f"{user_id}@bench.example",
        "session_id": str(uuid.uuid4()),
        "aal": "aal1",
        "iat": now,
        "exp": now + 7200,
        "app_metadata": {"provider": "email"},
    }
    token = jwt.encode(claims, jwt_secret, algorithm="HS256")
    return Person(user_id, uuid.uuid4(), token, claims)


def _insert(conn: psycopg.Connection[Any], person: Person, normal_key: str) -> None:
    conn.execute(
        "insert into auth.users (id, email, email_confirmed_at) values (%s, %s, now())",
        (person.user_id, person.claims["email"]),
    )
    conn.execute("insert into app.users (id) values (%s)", (person.user_id,))
    conn.execute("insert into app.credit_accounts (user_id) values (%s)", (person.user_id,))
    conn.execute(
        "select app.grant_credits(%s, %s, 'gift', %s)",
        (person.user_id, CREDITS, f"bench:{person.user_id}"),
    )
    conn.execute(
        "insert into app.uploads (id, user_id, state, storage_key, normal_key, content_type,"
        " width, height, pixel_sha256, notes)"
        " values (%s, %s, 'ready', %s, %s, 'image/jpeg', 1024, 1024, 'bench', %s)",
        (person.upload_id, person.user_id, normal_key, normal_key, Jsonb([])),
    )
