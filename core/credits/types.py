"""Balances, lots and ledger entries, as other nouns and the API use them."""

import uuid
from datetime import datetime
from enum import StrEnum

import msgspec


class EntryKind(StrEnum):
    GRANT = "grant"
    RESERVE = "reserve"
    CONFIRM = "confirm"
    REFUND = "refund"
    EXPIRE = "expire"
    REVERSE = "reverse"
    RESTORE = "restore"
    ADJUST = "adjust"


class Source(StrEnum):
    PURCHASE = "purchase"
    SIGNUP = "signup"
    PROMO = "promo"
    GIFT = "gift"
    REFERRAL = "referral"
    ADJUSTMENT = "adjustment"


class Purpose(StrEnum):
    RUN = "run"
    LATE_IMAGE = "late_image"


class Balance(msgspec.Struct, frozen=True):
    """Units: whole credits. `available` is what can be spent now."""

    available: int
    reserved: int
    debt: int


class Lot(msgspec.Struct, frozen=True):
    """Credits that came in together and expire together."""

    id: uuid.UUID
    source: Source
    granted: int
    remaining: int
    expires_at: datetime | None
    created_at: datetime


class Overview(msgspec.Struct, frozen=True):
    """`lots` stand in the order in which they are spent."""

    balance: Balance
    lots: list[Lot]


class Change(msgspec.Struct, frozen=True):
    """What an entry did to each of the three figures of a balance."""

    available: int
    reserved: int
    debt: int


class EntryFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the words of a line are made of; the last three where they are known.

    `is_share`: less was spent than was reserved, because the run was cancelled.
    """

    kind: EntryKind
    amount: int
    debit: str
    credit: str
    source: Source | None
    lot_expires_at: datetime | None
    operation: str | None = None
    extended_from: datetime | None = None
    is_share: bool = False


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable line of the ledger, seen from the user's side."""

    id: int
    kind: EntryKind
    amount: int
    debit: str
    credit: str
    change: Change
    lot_id: uuid.UUID | None
    source: Source | None
    lot_expires_at: datetime | None
    reservation_id: uuid.UUID | None
    generation_id: uuid.UUID | None
    operation: str | None
    reference: str | None
    actor: str
    note: str | None
    idempotency_key: str
    created_at: datetime
    text: str
    balance_after: Balance | None = None

    @property
    def position(self) -> "Position":
        balance, change = self.balance_after, self.change
        if balance is None:
            return Position(self.id, None)
        return Position(
            self.id,
            Balance(
                balance.available - change.available,
                balance.reserved - change.reserved,
                balance.debt - change.debt,
            ),
        )


class Position(msgspec.Struct, frozen=True):
    """Where a list goes on: below this entry, before which the balance was `balance`.

    The running balance travels with it, so that no page has to add up the ones before it.
    """

    entry_id: int
    balance: Balance | None


class EntryFilters(msgspec.Struct, frozen=True):
    kinds: tuple[EntryKind, ...] = ()
    generation_id: uuid.UUID | None = None

    @property
    def is_empty(self) -> bool:
        return not self.kinds and self.generation_id is None
