"""The Auth server's mail: to the mailbox, and through the send-email hook where one is set.

The hook call is signed as https://www.standardwebhooks.com says; its whole budget is five seconds,
in which a network error, a 429 or a 503 is tried again.
"""

import asyncio
import base64
import hashlib
import hmac
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import httpx
import msgspec

from sandbox.supabase.auth.errors import AuthError
from sandbox.supabase.config import SupabaseConfig
from sandbox.supabase.mailbox import Mail

HOOK_BUDGET_SECONDS = 5.0
HOOK_ATTEMPTS = 3
HOOK_RETRY_SECONDS = 2.0

SUBJECTS = {
    "signup": "Confirm your sign-up",
    "invite": "You have been invited",
    "magiclink": "Your sign-in link",
    "recovery": "Reset your password",
    "email_change": "Confirm your new e-mail address",
    "reauthentication": "Confirm that it is you",
}
# What `POST /verify` is called with; `email` covers the confirmation and the recovery slot.
LINK_TYPES = {"signup": "email", "magiclink": "email"}


class AuthMail(msgspec.Struct, frozen=True, kw_only=True):
    """One call of the hook. A secure e-mail change is one call and two messages."""

    action: str
    user: dict[str, Any]
    to: str
    token: str
    token_hash: str
    redirect_to: str
    token_new: str = ""
    token_hash_new: str = ""
    new_email: str = ""
    ip: str = ""


def _message(
    mail: AuthMail, config: SupabaseConfig, *, to: str, token: str, token_hash: str
) -> Mail:
    data = {
        "token": token,
        "token_hash": token_hash,
        "user_id": mail.user["id"],
        "redirect_to": mail.redirect_to,
    }
    text = f"Your code: {token}\n"
    if token_hash:
        link_type = LINK_TYPES.get(mail.action, mail.action)
        query = {"token_hash": token_hash, "type": link_type}
        if mail.redirect_to:
            query["next"] = mail.redirect_to
        data["link"] = f"{config.site_url.rstrip('/')}/auth/confirm?{urlencode(query)}"
        text = f"{data['link']}\n\n{text}"
    return Mail(to=to, subject=SUBJECTS[mail.action], text=text, kind=mail.action, data=data)


def to_mailbox(mail: AuthMail, config: SupabaseConfig) -> list[Mail]:
    if not mail.token_new:
        return [_message(mail, config, to=mail.to, token=mail.token, token_hash=mail.token_hash)]
    # The names are swapped on the wire: the current address gets `token` with `token_hash_new`.
    return [
        _message(mail, config, to=mail.to, token=mail.token, token_hash=mail.token_hash_new),
        _message(mail, config, to=mail.new_email, token=mail.token_new, token_hash=mail.token_hash),
    ]


def hook_payload(mail: AuthMail, config: SupabaseConfig) -> dict[str, Any]:
    return {
        "metadata": {
            "uuid": str(uuid4()),
            "time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "name": "send-email",
            "ip_address": mail.ip,
        },
        "user": mail.user,
        "email_data": {
            "token": mail.token,
            "token_hash": mail.token_hash,
            "redirect_to": mail.redirect_to,
            "email_action_type": mail.action,
            "site_url": config.issuer,
            "token_new": mail.token_new,
            "token_hash_new": mail.token_hash_new,
            "old_email": "",
            "old_phone": "",
            "provider": "",
            "factor_type": "",
        },
    }


def sign_webhook(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    """`secret` is `v1,whsec_<base64>`; several, joined by `|`, sign side by side."""
    signatures = []
    for one in secret.split("|"):
        key = base64.b64decode(one.removeprefix("v1,").removeprefix("whsec_"))
        signed = f"{message_id}.{timestamp}.".encode() + body
        digest = hmac.new(key, signed, hashlib.sha256).digest()
        signatures.append(f"v1,{base64.b64encode(digest).decode()}")
    return ", ".join(signatures)


class HookSender:
    def __init__(self, client: httpx.AsyncClient, config: SupabaseConfig) -> None:
        assert config.send_email_hook_url is not None
        assert config.send_email_hook_secret is not None
        self._client = client
        self._config = config
        self._url = config.send_email_hook_url
        self._secret = config.send_email_hook_secret

    async def aclose(self) -> None:
        await self._client.aclose()

    async def send(self, mail: AuthMail) -> None:
        """Raises: AuthError for what the hook refused or did not answer."""
        body = msgspec.json.encode(hook_payload(mail, self._config))
        try:
            async with asyncio.timeout(HOOK_BUDGET_SECONDS):
                response = await self._send_with_retries(body)
        except TimeoutError as error:
            message = "Failed to reach hook within maximum time of 5.000000 seconds"
            raise AuthError(422, "hook_timeout", message) from error
        except httpx.HTTPError as error:
            raise AuthError(
                422, "hook_timeout_after_retry", "Failed to reach hook after maximum retries"
            ) from error
        _check_answer(response)

    async def _send_with_retries(self, body: bytes) -> httpx.Response:
        for attempt in range(1, HOOK_ATTEMPTS + 1):
            try:
                response = await self._post(body)
            except httpx.TransportError:
                if attempt == HOOK_ATTEMPTS:
                    raise
            else:
                busy = response.status_code in {429, 503} and "retry-after" in response.headers
                if not busy or attempt == HOOK_ATTEMPTS:
                    return response
            await asyncio.sleep(HOOK_RETRY_SECONDS)
        raise AssertionError("the last attempt returns or raises")

    async def _post(self, body: bytes) -> httpx.Response:
        message_id, timestamp = str(uuid4()), str(int(time.time()))  # both new per attempt
        headers = {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": sign_webhook(self._secret, message_id, timestamp, body),
        }
        return await self._client.post(self._url, content=body, headers=headers)


def _check_answer(response: httpx.Response) -> None:
    status = response.status_code
    if status == 204:
        return
    if status not in {200, 202}:
        message = f"Unexpected status code returned from hook: {status}"
        raise AuthError(500, "unexpected_failure", message)
    if not response.content:
        return
    if not response.headers.get("content-type", "").startswith("application/json"):
        raise AuthError(400, "hook_payload_invalid_content_type", "Invalid JSON response from hook")
    answer = response.json()
    refusal = answer.get("error") if isinstance(answer, dict) else None
    if refusal:
        raise AuthError(
            int(refusal.get("http_code") or 500),
            "unexpected_failure",
            str(refusal.get("message") or "Hook refused"),
        )
