"""What production refuses to start with. Each rule returns what is wrong and what to do, or None.

Values are never shown: most are secrets, or hold one.
"""

import ipaddress
import itertools
import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qs, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

SECRET_CHARACTERS_MIN: Final = 32
_SECRET_SYMBOLS_MIN: Final = 8
_MAKE_ONE: Final = "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
# Of guides, examples and the demo project that Supabase's command line starts with.
_KNOWN_PARTS: Final = (
    *("changeme", "change-me", "change_me", "password", "placeholder", "example"),
    *("your-secret", "your_secret", "super-secret", "test-internal-secret"),
)
_ENCRYPTED: Final = frozenset({"require", "verify-ca", "verify-full"})
_HOST: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]")
_TEST_CAPTCHA: Final = re.compile(r"[0-9]x0{20,}[A-Z0-9]{2}")
_UNIQUE_LOCAL: Final = ipaddress.IPv6Network("fc00::/7")
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
# A provider of proxies lists networks; an eighth of all addresses is no list of proxies any more.
_IPV4_SHARE_MAX: Final = 2**29
_IPV6_PREFIX_MIN: Final = 16


def is_loopback_host(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def weak_secret(value: str) -> str | None:
    text = value.strip()
    if len(text) < SECRET_CHARACTERS_MIN:
        return f"has fewer than {SECRET_CHARACTERS_MIN} characters; {_MAKE_ONE}"
    steps = sum(ord(after) - ord(before) == 1 for before, after in itertools.pairwise(text))
    if (
        any(part in text.lower() for part in _KNOWN_PARTS)
        or len(set(text)) < _SECRET_SYMBOLS_MIN
        or text in (text + text)[1:-1]  # a shorter text, repeated
        or steps > len(text) // 2  # abcd…
    ):
        return f"can be guessed; {_MAKE_ONE}"
    return None


def test_captcha(secret: str) -> str | None:
    if _TEST_CAPTCHA.fullmatch(secret) is not None:
        return "is one of Cloudflare's test secrets, which pass or fail whoever asks; set your own"
    return None


def not_https(url: str) -> str | None:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        return "is no https address; production speaks to people over TLS only"
    return None


def stand_in(url: str) -> str | None:
    parts = urlsplit(url)
    if parts.scheme != "https" or is_loopback_host(parts.hostname or ""):
        return (
            "production needs https and no loopback address; set APP_ENV=development to run"
            " against the sandbox"
        )
    return None


def plain_redis(url: str) -> str | None:
    parts = urlsplit(url)
    if parts.scheme == "unix" or is_loopback_host(parts.hostname or ""):
        return None
    if parts.scheme != "rediss":
        return (
            "is not encrypted: who reads or writes what is on the way starts jobs; use a"
            " rediss:// address (REDIS_SETUP.md)"
        )
    # Of several the client takes the first, and it says nothing of the others.
    query = parse_qs(parts.query)
    checks = {*query.get("ssl_cert_reqs", []), *query.get("ssl_check_hostname", [])}
    if not checks <= {"required", "true", "True"}:
        return (
            "does not check the server's certificate and name; remove ssl_cert_reqs and"
            " ssl_check_hostname"
        )
    return None


def plain_database(url: str) -> str | None:
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return "is no connection URL; it begins with postgresql://"
    hosts = str(given.get("hostaddr") or given.get("host") or "").split(",")
    if all(not host or host[0] in "/@" or is_loopback_host(host) for host in hosts):
        return None
    # Not stated is `prefer`, which goes on without encryption where somebody in between asks so.
    if given.get("sslmode", "prefer") not in _ENCRYPTED:
        return "may go unencrypted; put ?sslmode=require behind it, or better verify-full"
    return None


def unnamed_proxies(networks: Sequence[str]) -> str | None:
    """Of networks that are known to be well-formed."""
    if not networks:
        return (
            "must name the networks of the proxies in front, or say `none` where there are none:"
            " else everybody behind a proxy is one caller, or anybody writes their own address"
        )
    parsed = [ipaddress.ip_network(text, strict=False) for text in networks]
    ipv4 = [each for each in parsed if isinstance(each, ipaddress.IPv4Network)]
    ipv6 = [each for each in parsed if isinstance(each, ipaddress.IPv6Network)]
    share = sum(each.num_addresses for each in ipaddress.collapse_addresses(ipv4))
    wide = [
        each
        for each in ipv6
        if (each.prefixlen < _IPV6_PREFIX_MIN and not each.subnet_of(_UNIQUE_LOCAL))
        or each.overlaps(_MAPPED)
    ]
    if share > _IPV4_SHARE_MAX or wide:
        return "names so much of the world that anybody writes their own address; name the proxies"
    return None


def wide_hosts(patterns: Sequence[str]) -> str | None:
    """Hosts that results are fetched from: a name, or a star before a domain of somebody's own."""
    for pattern in patterns:
        name = pattern.lower()
        domain = name.removeprefix("*.")
        if _HOST.fullmatch(domain) is None or (domain != name and domain.count(".") < 1):
            return "lets the worker fetch from anywhere; name the provider's hosts"
    return None


def open_origins(origins: Sequence[str]) -> str | None:
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme != "https" and not is_loopback_host(parts.hostname or ""):
            return "names an origin without https, whose pages anybody on the way can change"
    return None
