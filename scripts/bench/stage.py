"""The product as the measurements need it: temporary, with sandbox models of a known duration."""

import asyncio
import io
import json
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import psycopg
from PIL import Image

from core.settings import load_settings
from core.storage.supabase import SupabaseStorage
from sandbox.stack.product import Product
from scripts.bench import http_load
from scripts.people import Person

JWT_SECRET = secrets.token_hex(32)
PHOTO_KEY = "bench/normal.jpg"
SCENE = {"operation": "scene", "params": {"preset": "marble"}}

_SETTINGS = {
    "SUPABASE_JWT_SECRET": JWT_SECRET,
    # On, as in production, but no limit that a measurement could reach.
    "RATE_LIMIT_USER": "10000000/minute",
    "RATE_LIMIT_IP": "10000000/minute",
    # As the catalogue has it for a scene: the models here take as long as real ones.
    "PROVIDER_POLL_FIRST_SECONDS": "15",
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def bench_product(
    folder: Path,
    *,
    workers: int,
    settings: Mapping[str, str] | None = None,
    fal_arguments: Sequence[str] = (),
) -> Product:
    return Product(
        folder / "state",
        durable=False,
        temporary=True,
        settings={**_SETTINGS, **(settings or {})},
        fal_arguments=["--prerendered", *fal_arguments],
        workers=workers,
    )


def deliver_jpeg(product: Product) -> None:
    """The catalogue asks the scene's model for PNG; the budget is about JPEG."""
    with psycopg.connect(product.stack.postgres.url()) as conn:
        conn.execute(
            "update app.operations"
            " set steps = jsonb_set(steps, '{0,defaults,output_format}', '\"jpeg\"')"
            " where slug = 'scene'"
        )


def store_photo(product: Product) -> None:
    """The bytes behind every bench upload: a 1024 x 1024 JPEG."""
    grain = np.random.default_rng(1).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    photo = io.BytesIO()
    Image.fromarray(grain).resize((1024, 1024)).save(photo, "JPEG", quality=92)
    settings = load_settings(product.environ())

    async def put() -> None:
        async with httpx.AsyncClient() as http:
            storage = SupabaseStorage(settings, http)
            await storage.put(
                settings.storage_bucket_uploads, PHOTO_KEY, photo.getvalue(), "image/jpeg"
            )

    asyncio.run(put())


def creation(person: Person, body: Mapping[str, Any] = SCENE) -> bytes:
    """A POST /v1/generations of one person as it goes over the wire."""
    content = json.dumps({**body, "upload_id": str(person.upload_id)}).encode()
    return http_load.request("POST", "/v1/generations", token=person.token, body=content)


def address_of(product: Product) -> tuple[str, int]:
    parts = urlsplit(product.api_url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def request_scenes(product: Product, people: Sequence[Person], count: int) -> None:
    """`count` scenes through the API, the people taking turns."""

    def request_of(person: Person) -> http_load.RequestOf:
        sent = creation(person)
        return lambda _: sent

    load = asyncio.run(
        http_load.closed_loop(
            *address_of(product), [request_of(person) for person in people], count=count
        )
    )
    assert load.statuses == {202: count}, load.statuses
