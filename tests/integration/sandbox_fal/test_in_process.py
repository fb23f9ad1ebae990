"""The application without a server: what tests of the worker plug into their HTTP client."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import httpx
import pytest

from sandbox.fal.config import FalSandboxConfig
from sandbox.kit.connections import drop_connection
from tests.harness.applications import opened_fal
from tests.integration.sandbox_fal.support import EDIT, edit_body


class Inbox:
    """An ASGI application that keeps what is posted to it."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        self.paths.append(scope["path"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
async def client(inbox: Inbox) -> AsyncIterator[httpx.AsyncClient]:
    config = FalSandboxConfig(
        prerendered=True,
        model_seconds=0.01,
        transport=httpx.ASGITransport(app=inbox),
        extra_hosts=frozenset({"api.test"}),
    )
    async with (
        opened_fal(config) as app,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app),  # type: ignore[arg-type]  # Litestar's types
            base_url="http://fal.test",
            headers={"authorization": "Key any:key"},
        ) as made,
    ):
        yield made


async def test_whole_life_of_a_request(client: httpx.AsyncClient, inbox: Inbox) -> None:
    hook = quote("http://api.test/hooks/1", safe="")
    ticket = (await client.post(f"/{EDIT}?fal_webhook={hook}", json=edit_body())).json()
    assert ticket["response_url"].startswith("http://fal.test/fal-ai/nano-banana-2/requests/")

    with anyio.fail_after(10):
        while not inbox.paths:  # noqa: ASYNC110  the webhook is what is waited for
            await anyio.sleep(0.01)
    assert inbox.paths == ["/hooks/1"]
    output = (await client.get(ticket["response_url"])).json()
    file = await client.get(output["images"][0]["url"])
    assert file.headers["content-type"] == "image/png"


async def test_dropped_answer_is_half_an_answer(client: httpx.AsyncClient) -> None:
    await client.post("/__control/faults", json={"kind": "accept_then_drop"})

    answer = await client.post(f"/{EDIT}", json=edit_body())
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        answer.json()


def test_looking_for_a_socket_leaves_no_descriptor_open() -> None:
    scope: Any = {"client": ("127.0.0.1", "1")}
    before = len(list(Path("/dev/fd").iterdir()))
    assert not drop_connection(scope)
    assert len(list(Path("/dev/fd").iterdir())) == before
