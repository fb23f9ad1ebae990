"""The send-email hook: really called, really signed, inside the transaction."""

import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from litestar import Litestar, Request, Response, get, post
from supabase import AuthApiError

from sandbox.supabase.serve import free_port, serving
from tests.harness.database import TestDatabase
from tests.integration.sandbox_supabase.conftest import PASSWORD, Starter

EMAIL = "hook@example.com"
KEY = b"0123456789abcdef0123456789abcdef"
SECRET = f"v1,whsec_{base64.b64encode(KEY).decode()}"


@get("/__control/ready", sync_to_thread=False)
def ready() -> None:
    """What `serving` waits for."""


class Receiver:
    """Stands where the product's hook route stands."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[Response[Any]] = []
        self.url = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Receiver"]:
        @post("/hook")
        async def hook(request: Request[Any, Any, Any]) -> Response[Any]:
            self.calls.append((dict(request.headers), await request.body()))
            return self.answers.pop(0) if self.answers else Response(None, status_code=204)

        app = Litestar([hook, ready], openapi_config=None, logging_config=None)
        async with serving(app, host="127.0.0.1", port=free_port()) as base_url:
            self.url = f"{base_url}/hook"
            yield self


async def test_hook_is_signed_and_complete(start_sandbox: Starter) -> None:
    async with (
        Receiver().running() as receiver,
        start_sandbox(send_email_hook_url=receiver.url, send_email_hook_secret=SECRET) as sandbox,
    ):
        client = await sandbox.supabase()
        await client.auth.sign_up({"email": EMAIL, "password": PASSWORD})
        ((headers, body),) = receiver.calls
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = hmac.new(KEY, signed, hashlib.sha256).digest()
        assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
        payload = json.loads(body)
        assert payload["user"]["email"] == EMAIL
        mail = sandbox.mailbox.latest(to=EMAIL)
        assert payload["email_data"]["token_hash"] == mail.data["token_hash"]
        assert payload["email_data"]["email_action_type"] == "signup"
        assert payload["metadata"]["name"] == "send-email"


async def test_names_are_swapped_in_an_email_change(start_sandbox: Starter) -> None:
    async with (
        Receiver().running() as receiver,
        start_sandbox(send_email_hook_url=receiver.url, send_email_hook_secret=SECRET) as sandbox,
    ):
        client = await sandbox.signed_in(EMAIL)
        await client.auth.update_user({"email": "new@example.com"})
        data = json.loads(receiver.calls[-1][1])["email_data"]
        by_address = {
            EMAIL: (data["token"], data["token_hash_new"]),
            "new@example.com": (data["token_new"], data["token_hash"]),
        }
        for address, (code, token_hash) in by_address.items():
            assert hashlib.sha224(f"{address}{code}".encode()).hexdigest() == token_hash
            mail = sandbox.mailbox.latest(to=address, kind="email_change")
            assert (mail.data["token"], mail.data["token_hash"]) == (code, token_hash)


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (Response({"error": {"http_code": 422, "message": "no"}}, status_code=200), 422, "no"),
        (Response("oops", status_code=500), 500, "Unexpected status code"),
        (Response(None, status_code=401), 500, "Unexpected status code"),
    ],
)
async def test_a_failing_hook_takes_the_sign_up_back(
    start_sandbox: Starter,
    database: TestDatabase,
    answer: Response[Any],
    status: int,
    message: str,
) -> None:
    async with (
        Receiver().running() as receiver,
        start_sandbox(send_email_hook_url=receiver.url, send_email_hook_secret=SECRET) as sandbox,
    ):
        receiver.answers.append(answer)
        client = await sandbox.supabase()
        with pytest.raises(AuthApiError, match=message) as caught:
            await client.auth.sign_up({"email": EMAIL, "password": PASSWORD})
        assert caught.value.status == status
        assert sandbox.mailbox.list_mails() == []
        assert database.row("select count(*) as n from auth.users")["n"] == 0


@pytest.mark.slow
async def test_a_busy_hook_is_called_again(start_sandbox: Starter) -> None:
    busy = Response(None, status_code=503, headers={"retry-after": "1"})
    async with (
        Receiver().running() as receiver,
        start_sandbox(send_email_hook_url=receiver.url, send_email_hook_secret=SECRET) as sandbox,
    ):
        receiver.answers.append(busy)
        client = await sandbox.supabase()
        await client.auth.sign_up({"email": EMAIL, "password": PASSWORD})
        first, second = receiver.calls
        assert first[0]["webhook-id"] != second[0]["webhook-id"]
        assert json.loads(first[1])["email_data"] == json.loads(second[1])["email_data"]
