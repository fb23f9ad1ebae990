"""Cloudflare Turnstile: a person asked for this mail, on a page of ours.

Verified here, because Supabase Auth does not ask for it on calls with the secret key, and a token
is good once. Off without TURNSTILE_SECRET_KEY.
Source: https://developers.cloudflare.com/turnstile/get-started/server-side-validation/
"""

import uuid
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import structlog

from core.errors import InputReason, InvalidInputError, NotAllowedError, TemporarilyUnavailableError
from core.identity.errors import AccessReason
from core.networks import find_address
from core.settings import Settings

log = structlog.get_logger()

_TIMEOUT = httpx.Timeout(3, connect=2)
_ATTEMPTS = 2
_FIELD = "captcha_token"
_OUR_FAULT = frozenset({"missing-input-secret", "invalid-input-secret", "bad-request"})
_THEIR_FAULT = frozenset({"internal-error"})


class Turnstile:
    def __init__(self, settings: Settings, http: httpx.AsyncClient) -> None:
        key = settings.turnstile_secret_key
        self._secret = None if key is None else key.get_secret_value()
        self._url = settings.turnstile_verify_url
        self._hosts = pages_of(settings)
        self._http = http

    async def check(self, token: str | None, *, action: str, client_ip: str) -> None:
        """While Cloudflare does not answer everybody passes: limits and budgets hold all the same.

        Raises: InvalidInputError without a token; NotAllowedError for one that is spent, made up,
        or solved on another page or for another action; TemporarilyUnavailableError where our own
        secret is refused.
        """
        if self._secret is None:
            return
        if not token:
            raise InvalidInputError(field=_FIELD, reason=InputReason.REQUIRED)
        answer = await self._verify(token, client_ip)
        if answer is None:
            log.warning("turnstile.away", action=action)
            return
        codes = set(answer.get("error-codes") or ())
        if codes & _OUR_FAULT:
            log.critical("turnstile.secret_refused", codes=sorted(codes))
            raise TemporarilyUnavailableError(what="sign_in")
        # Whoever reads a page of ours has its site key, and can show the widget elsewhere.
        if (
            answer.get("success") is not True
            or answer.get("hostname") not in self._hosts
            or answer.get("action") != action
        ):
            log.info("turnstile.refused", codes=sorted(codes), action=action)
            raise NotAllowedError(reason=AccessReason.CAPTCHA_FAILED)

    async def _verify(self, token: str, client_ip: str) -> dict[str, Any] | None:
        """None where there is no answer. A repetition has the same key: it spends no token."""
        address = find_address(client_ip)
        given = {
            "secret": self._secret,
            "response": token,
            "idempotency_key": str(uuid.uuid4()),
            **({} if address is None else {"remoteip": str(address)}),
        }
        for _ in range(_ATTEMPTS):
            try:
                response = await self._http.post(self._url, data=given, timeout=_TIMEOUT)
                answer = msgspec.json.decode(response.content)
            except (httpx.HTTPError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            is_whole = isinstance(answer, dict) and response.status_code < 500
            if is_whole and not _THEIR_FAULT & set(answer.get("error-codes") or ()):
                return dict(answer)
        return None


def pages_of(settings: Settings) -> frozenset[str]:
    """Hosts of the pages that may show the widget."""
    addresses = (settings.site_url, settings.public_base_url, *settings.cors_allowed_origins)
    hosts = (urlsplit(address).hostname for address in addresses if address)
    return frozenset(host for host in hosts if host)
