"""People with credits and a photo of their own each; no two photos have the same colours."""

import asyncio
import io
import uuid
from typing import Any

import numpy as np
import psycopg
from PIL import Image

from sandbox.stack.product import ROOT, Product
from scripts.api_client import ApiClient
from scripts.people import CREDITS, Person, insert_user, make_claims, sign

SIDE = 448  # pixels: small enough that a run is about the pipeline
_SAMPLES = ("ring.jpg", "earrings.jpg")


def photo(number: int, count: int) -> bytes:
    """A sample with its hues turned, so that the pixels of each person differ."""
    path = ROOT / "tests" / "data" / "samples" / _SAMPLES[number % len(_SAMPLES)]
    with Image.open(path) as sample:
        picture = sample.convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    pixels = np.asarray(picture.convert("HSV")).copy()
    turned = pixels[..., 0].astype(np.int32) + 256 * number // count
    pixels[..., 0] = (turned % 256).astype(np.uint8)
    # Metal is nearly grey, and without saturation the hue would not be visible.
    pixels[..., 1] = np.maximum(pixels[..., 1], 90)
    out = io.BytesIO()
    Image.fromarray(pixels, "HSV").convert("RGB").save(out, "JPEG", quality=92)
    return out.getvalue()


async def make_people(product: Product, count: int, *, jwt_secret: str) -> list[Person]:
    """Users and credits by SQL, photos through the API."""
    return [await _make_person(product, number, count, jwt_secret) for number in range(count)]


async def _make_person(product: Product, number: int, count: int, jwt_secret: str) -> Person:
    user_id = uuid.uuid4()
    claims = make_claims(product, user_id)
    token = sign(claims, jwt_secret)
    await asyncio.to_thread(_insert, product, claims)
    async with ApiClient(product.api_url, token) as client:
        upload = await client.upload(f"photo-{number}.jpg", photo(number, count))
    if upload["state"] != "ready":
        raise RuntimeError(f"a photo was refused: {upload['problem']}")
    return Person(user_id, uuid.UUID(upload["id"]), token, claims)


def _insert(product: Product, claims: dict[str, Any]) -> None:
    """Whatever the provider's faults cost, nobody is stopped for it."""
    with psycopg.connect(product.stack.postgres.url()) as conn:
        conn.execute(
            "update app.unpaid_terms set credits_per_day = %s, buyer_credits_per_day = %s",
            (CREDITS, CREDITS),
        )
        insert_user(conn, claims)
