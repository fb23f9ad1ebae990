"""The ledger against a model of a few lines: any sequence of moves leaves both with the same
figures, in every lot, and a ledger that balances after each step."""

import itertools
import math
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.harness.ledger import Ledger, outcome_of

AMOUNTS = st.integers(1, 20)
DAYS = st.sampled_from([None, 1, 1, 2, 5])
SOURCES = st.sampled_from(["purchase", "signup", "promo", "gift", "referral"])
OUTCOMES = st.sampled_from(["confirmed", "refunded", "refunded"])
REFERENCES = st.sampled_from([None, "pi_1", "pi_2"])


class Lot(msgspec.Struct):
    """`lives` in days from now. Of equal lives the one that was set earlier ends earlier."""

    id: uuid.UUID
    is_paid: bool
    reference: str | None
    granted_as: int
    remaining: int
    lives: float
    lives_since: int

    @property
    def is_due(self) -> bool:
        return self.lives <= 0

    @property
    def order(self) -> tuple[Any, ...]:
        since = 0 if self.lives == math.inf else self.lives_since
        return (self.lives, since, self.is_paid, self.granted_as)


class Held(msgspec.Struct):
    parts: list[tuple[Lot, int]]
    amount: int
    state: str = "pending"


class Model:
    """What the ledger should do, with no database."""

    def __init__(self) -> None:
        self.lots: list[Lot] = []
        self.held: dict[uuid.UUID, Held] = {}
        self.debt = 0
        self.moves = itertools.count(1)

    @property
    def figures(self) -> tuple[int, int, int]:
        held = sum(held.amount for held in self.held.values() if held.state == "pending")
        return sum(lot.remaining for lot in self.lots), held, self.debt

    @property
    def pending(self) -> list[uuid.UUID]:
        return [subject for subject, held in self.held.items() if held.state == "pending"]

    @property
    def ended(self) -> list[uuid.UUID]:
        return [subject for subject, held in self.held.items() if held.state != "pending"]

    def expire(self) -> int:
        due = [lot for lot in self.lots if lot.is_due]
        expired = sum(lot.remaining for lot in due)
        for lot in due:
            lot.remaining = 0
        return expired

    def take(self, amount: int, first: str | None = None) -> list[tuple[Lot, int]]:
        parts = []
        for lot in sorted(
            self.lots, key=lambda lot: (first is None or lot.reference != first, lot.order)
        ):
            part = min(lot.remaining, amount)
            if part:
                lot.remaining -= part
                amount -= part
                parts.append((lot, part))
        return parts

    def grant(
        self, lot_id: uuid.UUID, amount: int, source: str, days: int | None, reference: str | None
    ) -> None:
        move = next(self.moves)
        paid = min(self.debt, amount)
        self.debt -= paid
        lives = math.inf if days is None else days
        self.lots.append(
            Lot(lot_id, source == "purchase", reference, move, amount - paid, lives, move)
        )

    def can_reserve(self, amount: int) -> bool:
        spendable = sum(lot.remaining for lot in self.lots if not lot.is_due)
        return self.debt == 0 and spendable >= amount

    def reserve(self, subject: uuid.UUID, amount: int) -> None:
        self.expire()
        self.held[subject] = Held(self.take(amount), amount)

    def refund(self, subject: uuid.UUID) -> None:
        self.expire()
        held = self.held[subject]
        held.state = "refunded"
        move = next(self.moves)
        to_debt = min(self.debt, held.amount)
        self.debt -= to_debt
        for lot, amount in sorted(held.parts, key=lambda part: part[0].order):
            kept = min(to_debt, amount)
            to_debt -= kept
            if amount == kept:
                continue
            lot.remaining += amount - kept
            if lot.is_due:
                lot.lives, lot.lives_since = 7, move

    def claw_back(self, amount: int, first: str | None) -> None:
        self.expire()
        self.debt += amount - sum(part for _, part in self.take(amount, first))


class LedgerMachine(RuleBasedStateMachine):
    ledger: Ledger

    def __init__(self) -> None:
        super().__init__()
        self.user = self.ledger.user()
        self.model = Model()
        self.keys = (f"{self.user}:{number}" for number in itertools.count(1))
        self.lots: dict[str, tuple[int, str]] = {}
        self.reversed: dict[str, tuple[int, str | None]] = {}

    @initialize()
    def start_with_something(self) -> None:
        self.grant(6, "signup", 1, None)
        self.grant(6, "purchase", 2, "pi_1")
        self.grant(6, "gift", None, None)
        self.reserve(8)
        self.reserve(5)

    @rule(amount=AMOUNTS, source=SOURCES, days=DAYS, reference=REFERENCES)
    def grant(self, amount: int, source: str, days: int | None, reference: str | None) -> None:
        key = next(self.keys)
        lot_id = self.ledger.grant(
            self.user,
            amount,
            source=source,
            key=key,
            lives=f"{days} days" if days else None,
            reference=reference,
        )
        self.lots[key] = (amount, source)
        self.model.grant(lot_id, amount, source, days, reference)

    @rule(amount=st.integers(1, 6))
    def reserve(self, amount: int) -> None:
        subject = uuid.uuid4()
        state, _ = outcome_of(lambda: self.ledger.reserve(self.user, amount, subject))
        assert state == ("ok" if self.model.can_reserve(amount) else "JS402")
        if state == "ok":
            self.model.reserve(subject, amount)

    @precondition(lambda self: self.model.pending)
    @rule(data=st.data(), outcome=OUTCOMES)
    def end(self, data: st.DataObject, outcome: str) -> None:
        subject = data.draw(st.sampled_from(self.model.pending))
        assert self._end(subject, outcome) == ("ok", True)
        if outcome == "refunded":
            self.model.refund(subject)
        self.model.held[subject].state = outcome

    @precondition(lambda self: self.model.ended)
    @rule(data=st.data(), outcome=OUTCOMES)
    def end_again(self, data: st.DataObject, outcome: str) -> None:
        subject = data.draw(st.sampled_from(self.model.ended))
        is_same = self.model.held[subject].state == outcome
        assert self._end(subject, outcome) == (("ok", False) if is_same else ("JS409", None))

    def _end(self, subject: uuid.UUID, outcome: str) -> tuple[str, Any]:
        move = self.ledger.confirm if outcome == "confirmed" else self.ledger.refund
        return outcome_of(lambda: move(self.user, subject))

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """A grant, a reservation and a reversal once more: nothing changes."""
        if self.lots:
            key = data.draw(st.sampled_from(sorted(self.lots)))
            amount, source = self.lots[key]
            self.ledger.grant(self.user, amount, source=source, key=key)
        if self.model.held:
            subject = data.draw(st.sampled_from(list(self.model.held)))
            self.ledger.reserve(self.user, self.model.held[subject].amount, subject)
        if self.reversed:
            key = data.draw(st.sampled_from(sorted(self.reversed)))
            amount, reference = self.reversed[key]
            assert self.ledger.reverse(self.user, amount, key, reference) == self.model.debt

    @rule(amount=st.integers(1, 8), reference=REFERENCES)
    def reverse(self, amount: int, reference: str | None) -> None:
        key = next(self.keys)
        debt = self.ledger.reverse(self.user, amount, key, reference)
        self.reversed[key] = (amount, reference)
        self.model.claw_back(amount, reference)
        assert debt == self.model.debt

    @rule(amount=st.integers(-4, 12).filter(bool))
    def adjust(self, amount: int) -> None:
        key = next(self.keys)
        for _ in range(2):  # the second is a replay
            after = self.ledger.adjust(self.user, amount, key)
        if amount < 0:
            self.model.claw_back(-amount, None)
        else:
            lot_id = self.ledger.value(
                "select id from app.credit_lots where user_id = %s"
                " order by created_at desc limit 1",
                self.user,
            )
            self.model.grant(lot_id, amount, "adjustment", None, None)
        assert (after["available"], after["reserved"], after["debt"]) == self.model.figures

    @rule()
    def expire(self) -> None:
        assert self.ledger.expire() == self.model.expire()

    @rule(days=st.sampled_from([1, 1, 2, 7]))
    def travel(self, days: int) -> None:
        self.ledger.clock.advance(days=days)
        for lot in self.model.lots:
            lot.lives -= days

    @invariant()
    def both_agree(self) -> None:
        assert self.ledger.balance(self.user) == self.model.figures
        rows = self.ledger.database.rows(
            "select id, remaining, coalesce("
            " round(extract(epoch from expires_at - app.now()) / 86400), 'infinity') as lives"
            " from app.credit_lots where user_id = %s",
            (self.user,),
        )
        assert {row["id"]: (row["remaining"], float(row["lives"])) for row in rows} == {
            lot.id: (lot.remaining, lot.lives) for lot in self.model.lots
        }

    @invariant()
    def the_ledger_balances(self) -> None:
        assert self.ledger.database.drift() == []

    def teardown(self) -> None:
        # Each example starts alone: what is due of an earlier person would expire in a later one.
        self.ledger.clock.advance(days=100)
        self.ledger.expire()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_any_sequence_of_moves(ledger: Ledger) -> None:
    class Machine(LedgerMachine):
        pass

    Machine.ledger = ledger
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
