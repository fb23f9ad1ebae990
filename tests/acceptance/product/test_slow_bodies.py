"""Bodies that come slowly or not at all: what they cost the API, and what others notice of them."""

import asyncio
import time
import uuid
from collections import Counter
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from scripts.bench.memory import own_mib, tree
from scripts.people import insert_user, make_claims, sign
from tests.harness.product import JWT_SECRET, ProductHarness

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PEOPLE = 15
BYTES_EACH = 10_000_000
HEAD = (
    "POST {path} HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {token}\r\n"
    "Content-Type: {kind}\r\nContent-Length: 24000000\r\n\r\n"
)
DISPOSITION = b'Content-Disposition: form-data; name="file"; filename="ring.jpg"'
FORM = b"--edge\r\n" + DISPOSITION + b"\r\n\r\n\xff\xd8\xff"


def _tokens(product: ProductHarness, count: int) -> list[str]:
    processes = product.processes
    tokens = []
    with psycopg.connect(processes.stack.postgres.url()) as conn:
        for _ in range(count):
            claims = make_claims(processes, uuid.uuid4())
            insert_user(conn, claims)
            tokens.append(sign(claims, JWT_SECRET))
    return tokens


async def _send_slowly(
    product: ProductHarness, head: str, first: bytes, *, drips: bool, seconds: float = 60
) -> str:
    """The status that ends a body of which only `first` comes at once; `broken` without one."""
    parts = urlsplit(product.processes.api_url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    answer = asyncio.create_task(reader.read(300))
    try:
        writer.write(head.encode() + first)
        await writer.drain()
        until = time.monotonic() + seconds
        while not answer.done() and time.monotonic() < until:
            if drips:
                writer.write(b"x")
                await writer.drain()
            await asyncio.wait([answer], timeout=1)
        assert answer.done(), f"still open after {seconds} s"
        return (await answer).decode("latin-1")[9:12]
    except (ConnectionError, asyncio.IncompleteReadError):
        return "broken"
    finally:
        answer.cancel()
        writer.close()


def _memory_mib(product: ProductHarness) -> float:
    return sum(own_mib(process) for process in tree(product.processes.api.pid))


async def test_unfinished_uploads_cost_the_api_little_memory(product: ProductHarness) -> None:
    """They were kept in memory, 25 MB each, for as long as their senders liked."""
    tokens = _tokens(product, PEOPLE)
    before = _memory_mib(product)
    form = "multipart/form-data; boundary=edge"
    sent = [
        asyncio.create_task(
            _send_slowly(
                product,
                HEAD.format(path="/v1/uploads", token=token, kind=form),
                FORM + bytes(BYTES_EACH),
                drips=False,
            )
        )
        for token in tokens * 2
    ]
    peak = before
    while not all(task.done() for task in sent):
        peak = max(peak, _memory_mib(product))
        await asyncio.sleep(0.2)
    ends = Counter([await task for task in sent])
    assert set(ends) <= {"408", "429", "503", "broken"}
    assert ends["408"] >= PEOPLE
    # All of them together are 300 MB.
    assert peak - before < 2 * PEOPLE * BYTES_EACH / 4 / 1_000_000


async def test_bodies_that_drip_are_given_up_whoever_sends_them(product: ProductHarness) -> None:
    (token,) = _tokens(product, 1)
    form = "multipart/form-data; boundary=edge"
    heads = [
        (HEAD.format(path="/v1/uploads", token=token, kind=form), FORM),
        (HEAD.format(path="/v1/uploads", token="nobody", kind=form), FORM),
        (HEAD.format(path="/v1/generations", token=token, kind="application/json"), b"{"),
        (HEAD.format(path="/v1/auth/sign-in", token="", kind="application/json"), b"{"),
        (HEAD.format(path="/v1/webhooks/stripe", token="", kind="application/json"), b"{"),
    ]
    heads = [
        (head.replace("24000000", "24000") if "json" in head else head, first)
        for head, first in heads
    ]
    slow = asyncio.gather(
        *(_send_slowly(product, head, first, drips=True) for head, first in heads * 4)
    )
    waits = []
    async with httpx.AsyncClient(base_url=product.processes.api_url) as http:
        while not slow.done():
            started = time.monotonic()
            assert (await http.get("/healthz")).status_code == 200
            waits.append(time.monotonic() - started)
            await asyncio.sleep(0.2)
    ends = Counter(await slow)
    assert set(ends) <= {"401", "408", "429"}
    assert ends["408"] >= 10
    assert max(waits) < 5
