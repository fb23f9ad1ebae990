"""What is usually written: a job that submits, sleeps until the model is done, and stores.

The pipeline measurement compares the product with it; nothing of the product imports it. It leaves
out what the product does besides: money, leases, output rules.
"""

import io
import os
import time
from typing import Any

import httpx
import psycopg
from PIL import Image

QUEUE = "bench-blocking"
_LOOK_SECONDS = 0.5
_THUMBNAIL_SIDE = 512


def make_image(image_id: str, photo_key: str, prompt: str) -> None:
    """One image, from the photo's signed URL to the stored result and its row."""
    storage_url = f"{os.environ['SUPABASE_URL']}/storage/v1"
    secret = os.environ["SUPABASE_SECRET_KEY"]
    with httpx.Client(timeout=30) as http:
        storage = {"apikey": secret, "Authorization": f"Bearer {secret}"}
        signed = http.post(
            f"{storage_url}/object/sign/uploads/{photo_key}",
            json={"expiresIn": 3600},
            headers=storage,
        )
        signed.raise_for_status()
        photo_url = storage_url + signed.json()["signedURL"]
        image_url = _run_model(http, photo_url, prompt)
        downloaded = http.get(image_url)
        downloaded.raise_for_status()
        picture, thumbnail = _verified(downloaded.content)
        for name, data in (("image", downloaded.content), ("thumb", thumbnail)):
            http.post(
                f"{storage_url}/object/results/blocking/{image_id}/{name}.jpg",
                content=data,
                headers={**storage, "content-type": "image/jpeg", "x-upsert": "true"},
            ).raise_for_status()
    with psycopg.connect(os.environ["BENCH_DATABASE_URL"]) as conn:
        conn.execute(
            "insert into bench.images (id, width, height, finished_at) values (%s, %s, %s, now())",
            (image_id, *picture.size),
        )


def _run_model(http: httpx.Client, photo_url: str, prompt: str) -> str:
    key = {"Authorization": f"Key {os.environ['FAL_AI_KEY_1']}"}
    submitted = http.post(
        f"{os.environ['FAL_QUEUE_URL']}/fal-ai/nano-banana-2/edit",
        json={"prompt": prompt, "image_urls": [photo_url], "output_format": "jpeg"},
        headers=key,
    )
    submitted.raise_for_status()
    request: dict[str, Any] = submitted.json()
    while http.get(request["status_url"], headers=key).json()["status"] != "COMPLETED":
        time.sleep(_LOOK_SECONDS)
    result = http.get(request["response_url"], headers=key)
    result.raise_for_status()
    return str(result.json()["images"][0]["url"])


def _verified(data: bytes) -> tuple[Image.Image, bytes]:
    """The decoded picture and a thumbnail of it. Raises: OSError for what does not open."""
    picture = Image.open(io.BytesIO(data))
    picture.load()
    small = picture.copy()
    small.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    thumbnail = io.BytesIO()
    small.save(thumbnail, "JPEG", quality=85)
    return picture, thumbnail.getvalue()
