"""Which mailbox an address reaches, however it is spelled, and what kind of host keeps it.

For the person key and for counting alone: mail goes to what was typed. The rules of hosts, the
disposable domains and the public suffixes are data, in the folder beside this file.
"""

import functools
import tomllib
import unicodedata
from enum import StrEnum
from pathlib import Path

import idna
import msgspec

DATA = Path(__file__).with_name("data")


# What IDNA takes for a dot (RFC 3490, 3.1). NFKC leaves the first and makes it of the last.
_DOTS = str.maketrans("\u3002\uff0e\uff61", "...")


class MailHost(StrEnum):
    LARGE = "large"
    SHARED = "shared"
    ALIAS = "alias"
    OWN = "own"


class HostRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of mail_hosts.toml, which explains the fields."""

    kind: MailHost
    domains: tuple[str, ...]
    mailbox_at: str | None = None
    ignored: str = ""
    same_as_dot: str = ""
    tag: str = ""
    subdomains: bool = False
    source: str | None = None


class Mailbox(msgspec.Struct, frozen=True):
    """`address` is one for all spellings; `domain` is what somebody had to register."""

    address: str
    domain: str
    host: MailHost
    domains: tuple[str, ...]
    """The domain as typed and each above it, the nearest first."""
    is_disposable: bool


def read_mailbox(address: str) -> Mailbox:
    typed = unicodedata.normalize("NFKC", address).lower().strip()
    name, _, domain = typed.rpartition("@")
    domain = _ascii(domain.translate(_DOTS).rstrip("."))
    rules = _hosts().get(domain)
    if rules is None:
        left, _, parent = domain.partition(".")
        above = _hosts().get(parent)
        if above is not None and above.subdomains:
            name, domain, rules = left, parent, above
    name = _unquoted(name).partition("+")[0] or name
    host = MailHost.OWN
    if rules is not None:
        host = rules.kind
        for tag in rules.tag:
            name = name.partition(tag)[0] or name
        for character in rules.same_as_dot:
            name = name.replace(character, ".")
        for character in rules.ignored:
            name = name.replace(character, "") or name
        domain = rules.mailbox_at or domain
    suffixes = _with_parents(domain)
    return Mailbox(
        address=f"{name}@{domain}",
        domain=domain if rules is not None else registrable(domain),
        host=host,
        domains=suffixes,
        is_disposable=any(suffix in _disposable() for suffix in suffixes),
    )


def registrable(domain: str) -> str:
    """The part of `domain` that somebody registered: the public suffix and one label more."""
    labels = domain.split(".")
    for start in range(len(labels)):
        rest = ".".join(labels[start:])
        if f"!{rest}" in _suffixes():
            return rest
        below = ".".join(labels[start + 1 :])
        if rest in _suffixes() or (below and f"*.{below}" in _suffixes()):
            return ".".join(labels[max(start - 1, 0) :])
    return ".".join(labels[-2:])


def _unquoted(name: str) -> str:
    """`"ada"@` is `ada@`. Characters that nobody sees make no other person."""
    if len(name) > 2 and name[0] == name[-1] == '"':
        name = name[1:-1].replace("\\", "")
    return "".join(char for char in name if unicodedata.category(char) != "Cf")


def _ascii(domain: str) -> str:
    try:
        return idna.encode(domain, uts46=True).decode()
    except (idna.IDNAError, UnicodeError):
        return domain


def _with_parents(domain: str) -> tuple[str, ...]:
    labels = domain.split(".")
    return tuple(".".join(labels[start:]) for start in range(max(len(labels) - 1, 1)))


@functools.cache
def _hosts() -> dict[str, HostRules]:
    entries = msgspec.convert(
        tomllib.loads((DATA / "mail_hosts.toml").read_text()), dict[str, HostRules]
    )
    return {domain: rules for rules in entries.values() for domain in rules.domains}


@functools.cache
def _disposable() -> frozenset[str]:
    overrides = tomllib.loads((DATA / "overrides.toml").read_text())
    listed = {*_lines("disposable_domains.txt"), *overrides["also"]}
    return frozenset(listed - set(overrides["never"]))


@functools.cache
def _suffixes() -> frozenset[str]:
    return frozenset(_lines("public_suffixes.txt"))


def _lines(name: str) -> list[str]:
    lines = (DATA / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]
