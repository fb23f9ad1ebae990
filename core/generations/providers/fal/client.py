"""fal.ai's queue over HTTP: submit once, fetch status and result, cancel.

Every method but the file ones returns a struct with what is known, and raises nothing for failures
of the network or of fal. A key goes to the configured hosts only.
Source: https://docs.fal.ai/model-apis/model-endpoints/queue
"""

import asyncio
import hashlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import httpx
import msgspec

from core.generations.providers.fal import answers, urls
from core.generations.providers.fal.answers import Reply
from core.generations.providers.fal.files import LIFECYCLE_SECONDS, FalFiles
from core.generations.providers.types import (
    Accepted,
    AlreadyCompleted,
    Ambiguous,
    CancelAccepted,
    CancelOutcome,
    Completed,
    Failure,
    InProgress,
    InQueue,
    NotAccepted,
    NotAcceptedReason,
    StatusOutcome,
    StillRunning,
    SubmitOutcome,
    Unknown,
    Unreachable,
)
from core.settings import FalKey, Settings

CONNECT_SECONDS = 5.0
READ_SECONDS = 15.0
# The official clients refuse a start timeout of a second or less.
START_TIMEOUT_SECONDS_MIN = 1.5
# An output is some URLs; only a data URI could be larger, and we never ask for one.
ANSWER_BYTES_MAX = 48 * 1024 * 1024
_TAG_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")
_LIFECYCLE = f'{{"expiration_duration_seconds": {LIFECYCLE_SECONDS}}}'
# Raised before a byte of the request left us.
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)


class ModelOutput(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A model's own output. Units: `billable_units` in the endpoint's unit of price."""

    payload: dict[str, Any]
    billable_units: Decimal | None


FalResultOutcome = ModelOutput | StillRunning | Failure | Unknown | Unreachable


class _AnswerTooLongError(Exception):
    """An answer of more than ANSWER_BYTES_MAX."""


def fingerprint(secret: str) -> str:
    """The name of a key in places where the key itself must not be written."""
    return hashlib.sha256(secret.encode()).hexdigest()[:16]


class FalClient:
    def __init__(
        self,
        settings: Settings,
        http: httpx.AsyncClient,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._http = http
        self._connect_seconds = connect_seconds
        self._read_seconds = read_seconds
        self._queue_url = settings.fal_queue_url
        self._submit_seconds = settings.provider_submit_timeout_seconds
        self._keys: dict[str, FalKey] = {
            fingerprint(key.secret.get_secret_value()): key for key in settings.fal_keys
        }
        self._files = FalFiles(settings, http)

    @property
    def keys(self) -> Mapping[str, FalKey]:
        """By fingerprint."""
        return self._keys

    def derive_urls(self, endpoint: str, request_id: str) -> tuple[str, str, str]:
        """(status, result, cancel), for a webhook that overtook a lost answer to the submit."""
        return urls.request_urls(self._queue_url, endpoint, request_id)

    # -- submit -------------------------------------------------------------------------------

    async def submit(
        self,
        *,
        fingerprint: str,
        endpoint: str,
        body: Mapping[str, Any],
        webhook_url: str | None,
        start_timeout_seconds: float,
        tags: Mapping[str, str] | None = None,
    ) -> SubmitOutcome:
        """Exactly one POST, to the configured host. There is no idempotency key at fal."""
        headers = {
            "Authorization": self._authorization(fingerprint),
            "Content-Type": "application/json",
            "X-Fal-Request-Timeout": f"{max(START_TIMEOUT_SECONDS_MIN, start_timeout_seconds):.1f}",
            "X-Fal-Object-Lifecycle-Preference": _LIFECYCLE,
            # A fallback is another model than the one the catalogue names.
            "x-app-fal-disable-fallback": "true",
        }
        if tags and (line := _tag_line(tags)):
            headers["X-Fal-Tags"] = line
        try:
            reply = await self._send(
                "POST",
                f"{self._queue_url}/{endpoint}",
                headers=headers,
                params={} if webhook_url is None else {"fal_webhook": webhook_url},
                content=msgspec.json.encode(body),
                read_seconds=self._submit_seconds,
            )
        except _NEVER_SENT as error:
            return _never_sent(error)
        except (httpx.HTTPError, TimeoutError, _AnswerTooLongError) as error:
            return Ambiguous(error=_words(error))
        if not reply.is_success:
            return answers.submit_refused(reply)
        return self._read_accepted(endpoint, reply)

    def _read_accepted(self, endpoint: str, reply: Reply) -> SubmitOutcome:
        data = reply.data if isinstance(reply.data, dict) else {}
        request_id = data.get("request_id")
        if not isinstance(request_id, str) or not request_id:
            return Ambiguous(
                error=f"HTTP {reply.status} without a request id", http_status=reply.status
            )
        derived = self.derive_urls(endpoint, request_id)
        names = ("status_url", "response_url", "cancel_url")
        status_url, response_url, cancel_url = (
            self._own_url(data.get(name)) or fallback
            for name, fallback in zip(names, derived, strict=True)
        )
        return Accepted(
            request_id=request_id,
            status_url=status_url,
            response_url=response_url,
            cancel_url=cancel_url,
        )

    def _own_url(self, url: object) -> str | None:
        """`url` if our key may be sent to it."""
        if not isinstance(url, str) or not urls.same_origin(url, self._queue_url):
            return None
        return url

    # -- status, result, cancel ---------------------------------------------------------------

    async def status(
        self, *, fingerprint: str, status_url: str, account: str | None = None
    ) -> StatusOutcome:
        """The state of the request. Failed and cancelled ones are COMPLETED too."""
        reply = await self._ask("GET", status_url, fingerprint, account)
        if isinstance(reply, Unreachable):
            return reply
        if answers.is_unknown(reply) and answers.is_gone(reply):
            return Unknown()
        if not reply.is_success or not reply.is_json:
            return answers.unreachable(reply)
        return _read_status(reply)

    async def result(
        self, *, fingerprint: str, response_url: str, account: str | None = None
    ) -> FalResultOutcome:
        """The HTTP code of the result decides how a request ended."""
        reply = await self._ask("GET", response_url, fingerprint, account)
        if isinstance(reply, Unreachable):
            return reply
        outcome = _read_result(reply)
        if outcome is not None:
            return outcome
        base = response_url.rstrip("/").removesuffix("/response")
        status = await self.status(
            fingerprint=fingerprint, status_url=f"{base}/status", account=account
        )
        return _by_status(status, reply)

    async def cancel(
        self, *, fingerprint: str, cancel_url: str, account: str | None = None
    ) -> CancelOutcome:
        reply = await self._ask("PUT", cancel_url, fingerprint, account)
        if isinstance(reply, Unreachable):
            return reply
        if reply.is_success:
            return CancelAccepted()
        if reply.status == 400 and reply.is_json:
            return AlreadyCompleted()
        if reply.status == 404 and reply.is_json:
            return Unknown()
        return answers.unreachable(reply)

    async def _ask(
        self, method: str, url: str, fingerprint: str, account: str | None
    ) -> Reply | Unreachable:
        """With the key that submitted; where that was removed or refused, with another one of its
        account, which sees the same requests."""
        own_url = urls.on_queue_host(url, self._queue_url)
        if own_url is None:
            return Unreachable(detail="not a URL of the provider")
        reply: Reply | Unreachable = Unreachable(
            detail="no key of the account is in this process's environment"
        )
        for known_as in self._keys_for(fingerprint, account):
            headers = {"Authorization": self._authorization(known_as)}
            try:
                reply = await self._send(
                    method, own_url, headers=headers, read_seconds=self._read_seconds
                )
            except (httpx.HTTPError, TimeoutError, _AnswerTooLongError) as error:
                return Unreachable(detail=_words(error))
            if reply.status != 401:
                break
        return reply

    def _keys_for(self, fingerprint: str, account: str | None) -> list[str]:
        own = [fingerprint] if fingerprint in self._keys else []
        others = [
            known_as
            for known_as, key in self._keys.items()
            if key.account == account and known_as != fingerprint
        ]
        return own + others

    # -- files --------------------------------------------------------------------------------

    async def download(self, url: str, *, max_bytes: int) -> bytes:
        """The bytes at an output's URL, at most `max_bytes`; the key is not sent along.

        Raises: OutputMissingError (404, 410, empty, a redirect, another 4xx: for a while),
        RetryableError (5xx, timeouts, broken transfer),
        OutputTooLargeError, OutputRefusedError (a URL that is not allowed).
        """
        return await self._files.download(url, max_bytes=max_bytes)

    async def upload(
        self, data: bytes, content_type: str, file_name: str, *, fingerprint: str
    ) -> str:
        """A URL that fal can fetch, for a photo in a storage that it cannot reach.

        Raises: UploadError (retryable).  Replay: another file, which ends after seven days.
        """
        return await self._files.upload(
            data,
            content_type=content_type,
            file_name=file_name,
            authorization=self._authorization(fingerprint),
        )

    # -- transport ----------------------------------------------------------------------------

    def _authorization(self, fingerprint: str) -> str:
        return f"Key {self._keys[fingerprint].secret.get_secret_value()}"

    async def _send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        read_seconds: float,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Reply:
        """One request, its whole answer. Bounded in time and size in any case."""
        connect_seconds = self._connect_seconds
        timeout = httpx.Timeout(read_seconds, connect=connect_seconds, pool=connect_seconds)
        async with (
            asyncio.timeout(read_seconds + 2 * connect_seconds),
            self._http.stream(
                method,
                url,
                params=params,
                content=content,
                headers={"Accept": "application/json", "User-Agent": "jewelshot/1", **headers},
                timeout=timeout,
                follow_redirects=False,
            ) as response,
        ):
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > ANSWER_BYTES_MAX:
                    raise _AnswerTooLongError
        answer = bytes(body)
        return Reply(response.status_code, response.headers, answer, answers.read_json(answer))


def _never_sent(error: httpx.HTTPError) -> NotAccepted:
    return NotAccepted(
        reason=NotAcceptedReason.UNREACHABLE,
        http_status=None,
        error_type=type(error).__name__,
        detail=_words(error),
        retry_after_seconds=None,
        # The host is unreachable for every key of the account; it is no failure of the generation.
        account_effect="cooldown",
        is_final=False,
    )


def _read_result(reply: Reply) -> FalResultOutcome | None:
    """None: only the request's status can tell what the answer means."""
    match reply:
        case Reply(status=200, is_json=True):
            return ModelOutput(payload=reply.data, billable_units=answers.billable_units(reply))
        case Reply(is_success=True):
            return StillRunning() if reply.is_json else answers.unreachable(reply)
        case _ if answers.is_unknown(reply):
            return Unknown(is_gone=answers.is_gone(reply))
        case _ if answers.is_conclusive(reply):
            return answers.failure(reply)
        case _ if answers.is_about_path(reply):
            return answers.unreachable(reply)
        case _:
            return None


def _by_status(status: StatusOutcome, reply: Reply) -> FalResultOutcome:
    """A 400 without a type may mean "not yet", and a 5xx may be the gateway's and pass.

    The status tells them apart: it names an error only for a request that failed. Taking the
    gateway's failure for the request's would mean paying for the same image twice.
    """
    match status:
        case InQueue() | InProgress():
            return StillRunning()
        case Completed() if reply.status < 500 or status.error or status.error_type:
            return answers.failure(reply)
        case Unreachable():
            return status
        case _:
            return answers.unreachable(reply)


def _read_status(reply: Reply) -> StatusOutcome:
    data: dict[str, Any] = reply.data
    match data.get("status"):
        case "IN_QUEUE":
            position = data.get("queue_position")
            return InQueue(position=position if isinstance(position, int) else None)
        case "IN_PROGRESS":
            return InProgress()
        case str() as word:
            # Only COMPLETED is documented. For any other word the result decides.
            error = _text(data.get("error"))
            if word != "COMPLETED":
                error = error or f"status {word[:40]}"
            return Completed(error=error, error_type=_text(data.get("error_type")))
        case _:
            return answers.unreachable(reply)


def _words(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__


def _text(value: object) -> str | None:
    return value[:1000] if isinstance(value, str) and value else None


def _tag_line(tags: Mapping[str, str]) -> str:
    """fal drops invalid tags in silence, so what would be dropped is not sent."""
    pairs = [
        f"{name}={value}"
        for name, value in tags.items()
        if name
        and len(name) <= 64
        and set(name) <= _TAG_CHARS
        and len(value) <= 256
        and value.isascii()
        and value.isprintable()
        and "," not in value
    ]
    line = ",".join(pairs[:10])
    return line if len(line) <= 1024 else ""
