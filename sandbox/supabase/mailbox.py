"""Where the sandbox's mail ends up: kept in memory, read over HTTP by people and tests.

`GET /__mail?to=&kind=` lists what was sent, newest last; `DELETE /__mail?to=` deletes it.
"""

from collections import deque
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
from litestar import Router, delete, get
from litestar.params import FromQuery

from sandbox.kit.requests import AnyRequest

MAILS_MAX = 10_000


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """One message. `data` holds what a test needs: the token, its hash, the link."""

    to: str
    subject: str
    text: str
    kind: str
    html: str | None = None
    data: dict[str, Any] = {}
    id: str = msgspec.field(default_factory=lambda: str(uuid4()))
    sent_at: str = msgspec.field(default_factory=_now)


class Mailbox:
    """One mailbox for all servers of a process; the oldest mail goes when it is full."""

    def __init__(self, *, mails_max: int = MAILS_MAX) -> None:
        self._mails: deque[Mail] = deque(maxlen=mails_max)

    def deliver(self, mail: Mail) -> None:
        self._mails.append(mail)

    def list_mails(self, *, to: str | None = None, kind: str | None = None) -> list[Mail]:
        return [mail for mail in self._mails if _matches(mail, to, kind)]

    def latest(self, *, to: str, kind: str | None = None) -> Mail:
        """Raises: LookupError when nothing was sent there."""
        found = self.list_mails(to=to, kind=kind)
        if not found:
            raise LookupError(f"no mail of kind {kind!r} to {to!r}")
        return found[-1]

    def clear(self, *, to: str | None = None) -> None:
        kept = [mail for mail in self._mails if to is not None and not _matches(mail, to, None)]
        self._mails.clear()
        self._mails.extend(kept)


def _matches(mail: Mail, to: str | None, kind: str | None) -> bool:
    if to is not None and mail.to.casefold() != to.casefold():
        return False
    return kind is None or mail.kind == kind


def _mailbox_of(request: AnyRequest) -> Mailbox:
    mailbox: Mailbox = request.app.state.mailbox
    return mailbox


@get("/__mail", sync_to_thread=False)
def list_mail(
    request: AnyRequest, to: FromQuery[str | None] = None, kind: FromQuery[str | None] = None
) -> list[Mail]:
    return _mailbox_of(request).list_mails(to=to, kind=kind)


@delete("/__mail", sync_to_thread=False)
def clear_mail(request: AnyRequest, to: FromQuery[str | None] = None) -> None:
    _mailbox_of(request).clear(to=to)


# For any sandbox app whose state has a `mailbox`.
MAILBOX_ROUTER = Router(path="/", route_handlers=[list_mail, clear_mail])
