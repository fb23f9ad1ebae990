"""Troubles that somebody makes by sending photos: see `beside.py`."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Sequence

import httpx
import psycopg
from PIL import Image
from psycopg.types.json import Jsonb

from sandbox.stack.product import Product
from scripts.people import Person

# Within all limits of a photo, 38 kB, and seconds to decode.
_BOMB_SIDE = 7_000
# What the largest phone cameras send.
_LARGE_SIZE = (7_500, 5_600)
_SENT = 24
_PATIENCE_SECONDS = 600
_BODY = (
    b"--edge\r\n"
    b'Content-Disposition: form-data; name="file"; filename="ring.jpg"\r\n\r\n\xff\xd8\xff'
)


def _bomb() -> bytes:
    picture = Image.radial_gradient("L").resize((_BOMB_SIDE, _BOMB_SIDE), 0).convert("RGB")
    out = io.BytesIO()
    picture.save(out, "WEBP", lossless=True)
    return out.getvalue()


def _large_photo() -> bytes:
    picture = Image.effect_noise((1_500, 1_120), 20).convert("RGB").resize(_LARGE_SIZE)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=88)
    return out.getvalue()


@contextlib.asynccontextmanager
async def bombs(product: Product, people: Sequence[Person]) -> AsyncIterator[None]:
    """One person sends photos of 49 megapixels in 38 kB, as many as may wait."""
    async with _sent(product, people[0], _bomb(), "wall.webp"):
        yield


@contextlib.asynccontextmanager
async def large_photos(product: Product, people: Sequence[Person]) -> AsyncIterator[None]:
    """One person sends photos of 42 megapixels."""
    async with _sent(product, people[0], _large_photo(), "large.jpg"):
        yield


@contextlib.asynccontextmanager
async def _sent(product: Product, person: Person, data: bytes, name: str) -> AsyncIterator[None]:
    headers = {"Authorization": f"Bearer {person.token}"}
    async with httpx.AsyncClient(base_url=product.api_url, headers=headers, timeout=60) as http:

        async def send() -> None:
            """Until it is taken: the next one is refused while too many wait."""
            for _ in range(_PATIENCE_SECONDS):
                reply = await http.post("/v1/uploads", files={"file": (name, data)})
                if reply.status_code == httpx.codes.ACCEPTED:
                    return
                assert reply.status_code == httpx.codes.TOO_MANY_REQUESTS, reply.text
                await asyncio.sleep(1)

        async def keep_sending() -> None:
            while True:
                await asyncio.gather(*(send() for _ in range(_SENT)))

        await asyncio.gather(*(send() for _ in range(_SENT)))
        more = asyncio.create_task(keep_sending())
        try:
            yield
        finally:
            more.cancel()
            await asyncio.gather(more, return_exceptions=True)
            await asyncio.to_thread(_forget_waiting, product)


def _forget_waiting(product: Product) -> None:
    """What is measured next is not to be beside what is left of this."""
    with psycopg.connect(product.stack.postgres.url()) as conn:
        conn.execute(
            "update app.uploads set state = 'rejected', problem = %s where state = 'stored'",
            (Jsonb({"code": "not_usable"}),),
        )


@contextlib.asynccontextmanager
async def slow_bodies(product: Product, people: Sequence[Person]) -> AsyncIterator[None]:
    """Sixty connections of three people that send a byte every second, again and again."""

    async def drip(person: Person) -> None:
        while True:
            with contextlib.suppress(ConnectionError):
                await _drip(product, person)

    dripping = [asyncio.create_task(drip(people[number % 3])) for number in range(60)]
    await asyncio.sleep(1)
    try:
        yield
    finally:
        for task in dripping:
            task.cancel()
        await asyncio.gather(*dripping, return_exceptions=True)


async def _drip(product: Product, person: Person) -> None:
    address = httpx.URL(product.api_url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        head = (
            f"POST /v1/uploads HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {person.token}\r\n"
            "Content-Type: multipart/form-data; boundary=edge\r\nContent-Length: 24000000\r\n\r\n"
        )
        writer.write(head.encode() + _BODY + bytes(100_000))
        answered = asyncio.create_task(reader.read(1))
        while not answered.done():
            writer.write(b"x")
            await writer.drain()
            await asyncio.wait([answered], timeout=1)
    finally:
        writer.close()
