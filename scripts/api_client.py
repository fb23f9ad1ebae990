"""A client of the HTTP API for demo, chaos and tests: only public protocols.

Signs up with Supabase's official client and the confirmation mail in the sandbox's mailbox.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import httpx
from supabase import AsyncClientOptions, acreate_client

Document = dict[str, Any]
FINISHED = frozenset({"succeeded", "failed", "cancelled"})


class ApiProblemError(Exception):
    """The API answered with a problem; the message is the one for users."""

    def __init__(self, problem: Document) -> None:
        title, detail = problem.get("title", "error"), problem.get("detail", "")
        super().__init__(f"{title}: {detail}")
        self.problem = problem


async def sign_up(
    *, supabase_url: str, publishable_key: str, email: str, password: str
) -> tuple[str, Document]:
    """A confirmed session's access token, and the mail that confirmed it."""
    client = await acreate_client(
        supabase_url,
        publishable_key,
        AsyncClientOptions(flow_type="implicit", auto_refresh_token=False, persist_session=False),
    )
    await client.auth.sign_up({"email": email, "password": password})
    mail = await _last_mail(supabase_url, email)
    confirmed = await client.auth.verify_otp(
        {"token_hash": mail["data"]["token_hash"], "type": "email"}
    )
    assert confirmed.session is not None, "a confirmed address has a session"
    return confirmed.session.access_token, mail


async def _last_mail(supabase_url: str, email: str) -> Document:
    async with httpx.AsyncClient(base_url=supabase_url) as http:
        for _ in range(100):
            mails = (await http.get("/__mail", params={"to": email})).json()
            if mails:
                found: Document = mails[-1]
                return found
            await asyncio.sleep(0.05)
    raise TimeoutError(f"no mail came for {email}")


class ApiClient:
    """The client of one signed-in person. Every method raises ApiProblemError for a problem."""

    def __init__(self, api_url: str, access_token: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=api_url,
            headers={"Authorization": f"Bearer {access_token}"},
            timeout=httpx.Timeout(40, connect=5),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def get(self, path: str, **query: Any) -> Document:
        return _document(await self._http.get(path, params=query))

    async def post(self, path: str, body: Document, *, key: str | None = None) -> Document:
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        return _document(await self._http.post(path, json=body, headers=headers))

    async def buy(self, pack: str) -> Document:
        """Buys a pack on the checkout page; the order once the product has recorded its end."""
        order = await self.post("/v1/checkout", {"pack": pack})
        async with httpx.AsyncClient(timeout=30) as browser:
            page = await browser.get(order["checkout_url"])
            page.raise_for_status()
            paid = await browser.post(order["checkout_url"], data={"action": "pay"})
        if not paid.has_redirect_location:
            raise ApiProblemError({"title": "The payment page refused", "detail": paid.text[:300]})
        return await self.wait(f"/v1/checkout/{order['id']}", {"created", "open", "processing"})

    async def refund(self, order_id: str) -> Document:
        """Returns the money for unused credits of an order; the refund once Stripe has made it."""
        refund = await self.post("/v1/refunds", {"order_id": order_id})
        return await self.wait(f"/v1/refunds/{refund['id']}", {"requested", "pending"})

    async def wait(self, path: str, while_states: set[str]) -> Document:
        """The document at `path` once its state is none of `while_states`."""
        for _ in range(120):
            found = _document(await self._http.get(path, headers={"Prefer": "wait=5"}))
            if found["state"] not in while_states:
                return found
            await asyncio.sleep(0.25)
        raise TimeoutError(f"{path} is still {found['state']}")

    async def upload(self, file_name: str, data: bytes) -> Document:
        """The upload when it is ready or rejected; a refused file raises with what is wrong."""
        reply = await self._http.post(
            "/v1/uploads",
            files={"file": (file_name, data)},
            headers={"Prefer": "wait=25"},
        )
        upload = _document(reply)
        while upload["state"] not in {"ready", "rejected"}:
            await asyncio.sleep(0.25)
            upload = await self.get(f"/v1/uploads/{upload['id']}")
        return upload

    async def follow(self, generation_id: str) -> AsyncIterator[Document]:
        """Each state of a generation as it comes, by server-sent events, to its end."""
        state = ""
        while state not in FINISHED:
            async with self._http.stream(
                "GET", f"/v1/generations/{generation_id}/events", timeout=30
            ) as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("data:"):
                        generation = json.loads(line.removeprefix("data:"))
                        state = generation["state"]
                        yield generation

    async def finish(self, generation_id: str, on_change: Callable[[Document], None]) -> Document:
        """The generation with its timeline, once it has ended."""
        async for generation in self.follow(generation_id):
            on_change(generation)
        return await self.get(f"/v1/generations/{generation_id}")

    async def download(self, generation: Document) -> tuple[str, bytes]:
        """File name and bytes of a delivered image, through its signed URL."""
        signed = await self.get(generation["image"]["result_url"])
        async with httpx.AsyncClient(timeout=30) as http:
            reply = await http.get(signed["url"])
        reply.raise_for_status()
        return signed["file_name"], reply.content


def _document(reply: httpx.Response) -> Document:
    document: Document = reply.json()
    if reply.is_error:
        raise ApiProblemError(document)
    return document
