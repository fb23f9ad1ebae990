"""People with credits and a photo of their own each; no two photos have the same colours."""

import io
import time
import uuid
from typing import Any

import jwt
import msgspec
import numpy as np
import psycopg
from PIL import Image

from sandbox.stack.product import ROOT, Product
from scripts.shopper import Shopper

CREDITS = 1_000_000
SIDE = 448  # pixels: small enough that a run is about the pipeline
_SAMPLES = ("ring.jpg", "earrings.jpg")


class Person(msgspec.Struct, frozen=True):
    user_id: uuid.UUID
    upload_id: uuid.UUID
    token: str


def photo(number: int, count: int) -> bytes:
    """A sample with its hues turned, so that each person's pixels are told apart."""
    path = ROOT / "tests" / "data" / "samples" / _SAMPLES[number % len(_SAMPLES)]
    with Image.open(path) as sample:
        picture = sample.convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    pixels = np.asarray(picture.convert("HSV")).copy()
    turned = pixels[..., 0].astype(np.int32) + 256 * number // count
    pixels[..., 0] = (turned % 256).astype(np.uint8)
    # Metal is nearly grey: without saturation a hue is no colour.
    pixels[..., 1] = np.maximum(pixels[..., 1], 90)
    out = io.BytesIO()
    Image.fromarray(pixels, "HSV").convert("RGB").save(out, "JPEG", quality=92)
    return out.getvalue()


async def make_people(product: Product, count: int, *, jwt_secret: str) -> list[Person]:
    """Users and credits by SQL, photos through the API."""
    made = []
    for number in range(count):
        user_id = uuid.uuid4()
        with psycopg.connect(product.stack.postgres.url()) as conn:
            _insert(conn, user_id)
        token = _token(product, user_id, jwt_secret)
        async with Shopper(product.api_url, token) as shopper:
            upload = await shopper.upload(f"photo-{number}.jpg", photo(number, count))
        if upload["state"] != "ready":
            raise RuntimeError(f"a photo was refused: {upload['problem']}")
        made.append(Person(user_id, uuid.UUID(upload["id"]), token))
    return made


def _insert(conn: psycopg.Connection[Any], user_id: uuid.UUID) -> None:
    conn.execute(
        "insert into auth.users (id, email, email_confirmed_at) values (%s, %s, now())",
        (user_id, f"{user_id}@chaos.example"),
    )
    conn.execute("insert into app.users (id) values (%s)", (user_id,))
    conn.execute("insert into app.credit_accounts (user_id) values (%s)", (user_id,))
    conn.execute(
        "select app.grant_credits(%s, %s, 'gift', %s)", (user_id, CREDITS, f"chaos:{user_id}")
    )


def _token(product: Product, user_id: uuid.UUID, jwt_secret: str) -> str:
    now = int(time.time())
    claims = {
        "iss": f"{product.supabase_url}/auth/v1",
        "sub": str(user_id),
        "aud": "authenticated",
        "role": "authenticated",
        "email": f"{user_id}@chaos.example",
        "session_id": str(uuid.uuid4()),
        "aal": "aal1",
        "iat": now,
        "exp": now + 7200,
        "app_metadata": {"provider": "email"},
    }
    return jwt.encode(claims, jwt_secret, algorithm="HS256")
