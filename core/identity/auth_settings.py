"""How the project's Supabase Auth is set up, as far as our rules rest on it."""

import time
from collections.abc import Callable

import httpx
import msgspec
import structlog

from core.settings import Settings

log = structlog.get_logger()

_FRESH_SECONDS = 300.0
_RETRY_SECONDS = 30.0
_TIMEOUT_SECONDS = 2.0


class _PublicSettings(msgspec.Struct):
    """GET /auth/v1/settings, in part."""

    mailer_autoconfirm: bool


class AuthSettings:
    """What Auth says of itself, asked at most every few minutes."""

    def __init__(
        self,
        settings: Settings,
        http: httpx.AsyncClient,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = f"{settings.supabase_url}/auth/v1/settings"
        self._key = settings.supabase_publishable_key.get_secret_value()
        self._http = http
        self._now = now
        self._autoconfirms: bool | None = None
        self._ask_at = 0.0

    async def find_autoconfirm(self) -> bool | None:
        """Whether addresses count as verified without a mail; None while that is not known."""
        if self._now() >= self._ask_at:
            self._ask_at = self._now() + _RETRY_SECONDS  # one asks, the others take what is known
            try:
                answer = await self._http.get(
                    self._url, headers={"apikey": self._key}, timeout=_TIMEOUT_SECONDS
                )
                answer.raise_for_status()
                found = msgspec.json.decode(answer.content, type=_PublicSettings)
            except (httpx.HTTPError, msgspec.MsgspecError) as error:
                log.warning("auth.settings_unknown", error=type(error).__name__)
            else:
                self._autoconfirms = found.mailer_autoconfirm
                self._ask_at = self._now() + _FRESH_SECONDS
        return self._autoconfirms
