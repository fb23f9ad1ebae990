"""Users with credits and a ready photo for measurements, made by SQL: no sign-up is measured."""

import uuid
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from sandbox.stack.product import Product
from scripts.people import Person, insert_user, make_claims, sign


def make_people(
    product: Product, count: int, *, jwt_secret: str, normal_key: str = "bench/normal.jpg"
) -> list[Person]:
    """`count` people. The photo is a row without bytes unless `normal_key` names an object of the
    uploads bucket."""
    people = []
    with psycopg.connect(product.stack.postgres.url(), row_factory=dict_row) as conn:
        for _ in range(count):
            claims = make_claims(product, uuid.uuid4())
            person = Person(
                uuid.UUID(claims["sub"]), uuid.uuid4(), sign(claims, jwt_secret), claims
            )
            insert_user(conn, claims)
            _insert_photo(conn, person, normal_key)
            people.append(person)
    return people


def _insert_photo(conn: psycopg.Connection[Any], person: Person, normal_key: str) -> None:
    conn.execute(
        "insert into app.uploads (id, user_id, state, storage_key, normal_key, content_type,"
        " width, height, pixel_sha256, notes)"
        " values (%s, %s, 'ready', %s, %s, 'image/jpeg', 1024, 1024, 'bench', %s)",
        (person.upload_id, person.user_id, normal_key, normal_key, Jsonb([])),
    )
