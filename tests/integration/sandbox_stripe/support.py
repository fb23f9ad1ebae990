"""The sandbox as our code meets it: the official SDK, a webhook receiver, the control routes."""

import json
from collections.abc import Mapping
from typing import Any

import httpx
import stripe
from anyio.lowlevel import checkpoint
from litestar import Litestar

from sandbox.stripe.engine import Sandbox
from sandbox.stripe.in_process import InProcessTransport

KEY = "sk_test_sandbox"
SECRET = "whsec_configured"
BASE = "http://stripe.test"
HOOK = "http://api.test/webhooks/stripe"
SUCCESS = "http://shop.test/return?session_id={CHECKOUT_SESSION_ID}"
CANCEL = "http://shop.test/billing"

Json = dict[str, Any]


class SdkTransport(stripe.HTTPClient):
    """The SDK over our own httpx client; its own calls httpx in a way that httpx deprecates."""

    name = "httpx"

    def __init__(self, client: httpx.AsyncClient) -> None:
        super().__init__()
        self._http = client

    async def request_async(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
    ) -> tuple[bytes, int, Mapping[str, str]]:
        try:
            answer = await self._http.request(method, url, headers=headers, content=post_data)
        except httpx.HTTPError as error:
            raise stripe.APIConnectionError(  # type: ignore[no-untyped-call]  # the SDK's own
                type(error).__name__, should_retry=True
            ) from error
        return answer.content, answer.status_code, answer.headers

    def sleep_async(self, secs: float) -> Any:  # noqa: ARG002  tests do not wait for a back-off
        return checkpoint()

    async def close_async(self) -> None:
        await self._http.aclose()


class Hook:
    """One webhook as it arrived."""

    def __init__(self, headers: Mapping[str, str], raw: bytes) -> None:
        self.headers = headers
        self.raw = raw
        self.event: Json = json.loads(raw)

    @property
    def type(self) -> str:
        return str(self.event["type"])

    @property
    def object(self) -> Json:
        found: Json = self.event["data"]["object"]
        return found

    def verifies(self, secret: str = SECRET) -> bool:
        signature = self.headers.get("stripe-signature")
        try:
            event = stripe.Webhook.construct_event(self.raw, signature, secret)
        except stripe.SignatureVerificationError:
            return False
        return bool(event.id == self.event["id"])


class Inbox:
    """An ASGI application that keeps what is posted; `answers` in turn, then 200."""

    def __init__(self) -> None:
        self.hooks: list[Hook] = []
        self.answers: list[int] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raw = b""
        more = True
        while more:
            message = await receive()
            raw += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.hooks.append(Hook(headers, raw))
        status = self.answers.pop(0) if self.answers else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    @property
    def types(self) -> list[str]:
        return [hook.type for hook in self.hooks]

    def of(self, type_: str) -> list[Hook]:
        return [hook for hook in self.hooks if hook.type == type_]

    def last(self, type_: str) -> Hook:
        return self.of(type_)[-1]


class Stripe:
    """One running sandbox and everything that speaks with it."""

    def __init__(self, app: Litestar, inbox: Inbox) -> None:
        self.app = app
        self.inbox = inbox
        self.transport = InProcessTransport(app)
        self.http = httpx.AsyncClient(transport=self.transport, base_url=BASE)
        self.sdk = self.client()
        self.v1: Any = (
            self.sdk.v1
        )  # its expandable fields are unions, which tests would assert away

    def client(
        self, key: str = KEY, *, retries: int = 0, seconds: float = 5.0
    ) -> stripe.StripeClient:
        http = httpx.AsyncClient(transport=self.transport, timeout=seconds)
        return stripe.StripeClient(
            key,
            base_addresses={"api": BASE},
            max_network_retries=retries,
            http_client=SdkTransport(http),
        )

    @property
    def box(self) -> Sandbox:
        sandbox: Sandbox = self.app.state.sandbox
        return sandbox

    async def aclose(self) -> None:
        await self.http.aclose()

    # -- control ------------------------------------------------------------------------------

    async def control(self, path: str, body: Any = None, method: str = "POST") -> Json:
        answer = await self.http.request(method, f"/__control/{path}", json=body)
        assert answer.status_code == 200, answer.text
        reply: Json = answer.json()
        return reply

    async def fault(self, kind: str, *, match: Json | None = None, **rest: Any) -> None:
        await self.control("faults", {"kind": kind, "match": match or {}, **rest})

    async def tune(self, **changes: Any) -> None:
        await self.control("config", changes, method="PATCH")

    async def settled(self) -> list[Hook]:
        """The webhooks that came, once nothing is on its way."""
        assert (await self.control("webhooks/settle", {"seconds": 10}))["settled"]
        return self.inbox.hooks

    # -- things to work with ------------------------------------------------------------------

    async def price(self, amount: int = 1000, **changes: Any) -> Any:
        return await self.v1.prices.create_async(
            {
                "currency": "usd",
                "unit_amount": amount,
                "product_data": {"name": "100 credits"},
                **changes,
            }
        )

    async def session(self, price: Any = None, **changes: Any) -> Any:
        price = price or await self.price()
        return await self.v1.checkout.sessions.create_async(
            {
                "mode": "payment",
                "line_items": [{"price": price.id, "quantity": 1}],
                "success_url": SUCCESS,
                "cancel_url": CANCEL,
                **changes,
            }
        )

    async def paid(self, **changes: Any) -> Any:
        """A session that was paid by card, as the API shows it then."""
        session = await self.session(**changes)
        await self.control(f"sessions/{session.id}/pay")
        return await self.v1.checkout.sessions.retrieve_async(session.id)
