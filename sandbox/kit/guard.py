"""Checks that a sandbox server makes before it binds: may a stand-in run here?

A stand-in holds fixed keys and issues tokens for any identity, so it must never be reachable
from outside the machine nor run in production.
"""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit


class SandboxRefusedError(RuntimeError):
    """The sandbox will not start here; the message says what to change."""


def require_sandbox_allowed(environ: Mapping[str, str]) -> None:
    """Raises: SandboxRefusedError when `APP_ENV` is production."""
    if environ.get("APP_ENV", "").strip().casefold() in {"production", "prod"}:
        raise SandboxRefusedError(
            "APP_ENV is production: the sandbox servers do not start there; "
            "point the service at the real one, or set APP_ENV=development"
        )


def require_loopback(host: str) -> None:
    """`host` is an address to bind or the host of a URL. Raises: SandboxRefusedError."""
    if host == "localhost":
        return
    try:
        is_loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise SandboxRefusedError(
            f"{host!r} is not a loopback address: the sandbox servers listen on 127.0.0.1 or ::1"
        )


def require_loopback_url(url: str) -> None:
    """As `require_loopback`, for the host of a base URL."""
    require_loopback(urlsplit(url).hostname or "")
