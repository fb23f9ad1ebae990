"""Promo and gift codes: how one is written, and what is known of it once it has been shown."""

import hashlib
import re
import secrets
import uuid
from datetime import datetime
from enum import StrEnum

import msgspec

# Crockford's base 32: without I, L, O and U. Source: https://www.crockford.com/base32.html
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
BRAND = "JSG"
GROUP = 4
CHARACTERS = 16  # of 5 bits: 80 in all
CODES_MAX = 500  # in one issue

# What people and programs put between the groups: hyphens and dashes of any kind.
_BETWEEN = re.compile(r"[\s\-_.\u00ad\u200b\u2010-\u2015\u2212]+")
_LOOKALIKES = str.maketrans("OIL", "011")
_WRITTEN = re.compile(f"(?:{BRAND})?([{ALPHABET}]{{{CHARACTERS}}})")
_WRITTEN_PREFIX = re.compile(f"(?:{BRAND})?([{ALPHABET}]{{{GROUP}}})")


class CodeKind(StrEnum):
    PROMO = "promo"
    GIFT = "gift"


class CodeStatus(StrEnum):
    """What would happen to somebody who redeems it now for the first time."""

    ACTIVE = "active"
    USED_UP = "used_up"
    EXPIRED = "expired"
    DISABLED = "disabled"


class PlainCode(msgspec.Struct, frozen=True):
    """A code that was just made. `text` is shown to the admin and stored nowhere."""

    id: uuid.UUID
    text: str

    @property
    def prefix(self) -> str:
        return self.text[: len(BRAND) + 1 + GROUP]

    def __repr__(self) -> str:
        return f"PlainCode(id={self.id!r}, prefix={self.prefix!r})"


class KeptCode(msgspec.Struct, frozen=True):
    """What is stored of a code: everything but its text."""

    id: uuid.UUID
    sha256: str
    prefix: str


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """Units: whole credits; days. `expires_at` is the code's, the days are those of its credits."""

    kind: CodeKind
    credits: int
    uses_max: int
    expires_at: datetime | None
    credits_expire_after_days: int | None
    campaign: str | None
    note: str | None


class Issue(msgspec.Struct, frozen=True):
    """Codes that were made together, on the same terms."""

    id: uuid.UUID
    codes: list[PlainCode]


class Code(Terms, frozen=True, kw_only=True):
    id: uuid.UUID
    issue_id: uuid.UUID
    prefix: str
    status: CodeStatus
    uses: int
    created_by: str
    created_at: datetime
    disabled_at: datetime | None


class CodeFilters(msgspec.Struct, frozen=True, kw_only=True):
    kind: CodeKind | None = None
    status: CodeStatus | None = None
    campaign: str | None = None
    issue_id: uuid.UUID | None = None
    prefix: str | None = None


class RedemptionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One person's use of a code, as admins see it."""

    user_id: uuid.UUID
    lot_id: uuid.UUID
    credits: int
    paid_debt: int
    credits_expire_at: datetime | None
    redeemed_at: datetime


class Redemption(msgspec.Struct, frozen=True, kw_only=True):
    """What a code gave to the person who redeemed it. Units: whole credits."""

    kind: CodeKind
    credits: int
    paid_debt: int
    lot_id: uuid.UUID
    credits_expire_at: datetime | None
    redeemed_at: datetime


def new_code_text() -> str:
    """A code as it is shown: JSG-XXXX-XXXX-XXXX-XXXX."""
    characters = "".join(secrets.choice(ALPHABET) for _ in range(CHARACTERS))
    groups = [characters[start : start + GROUP] for start in range(0, CHARACTERS, GROUP)]
    return "-".join((BRAND, *groups))


def digest_of(written: str) -> bytes | None:
    """SHA-256 of a code however it is written; None for what cannot be one.

    Upper and lower case, the separators and the letters that look like digits make no difference.
    """
    found = _WRITTEN.fullmatch(_plain(written))
    return hashlib.sha256(found.group(1).encode()).digest() if found else None


def prefix_of(written: str) -> str | None:
    """The visible beginning of a code as it is stored; None for what cannot be one."""
    found = _WRITTEN_PREFIX.fullmatch(_plain(written))
    return f"{BRAND}-{found.group(1)}" if found else None


def _plain(written: str) -> str:
    return _BETWEEN.sub("", written).upper().translate(_LOOKALIKES)
