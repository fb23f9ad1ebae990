"""Whatever happens to a person's payments, no order gives more money back than came in for it, and
no credits become worth money that nobody paid for."""

import itertools
import uuid
from typing import Any

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

from migrations.runner.roles import API_ROLE
from tests.harness.database import TestDatabase
from tests.harness.ledger import Ledger, outcome_of, scoped, user_claims

PRICES = st.sampled_from([1990, 1990, 20, 0])
FREE = st.sampled_from(["promo", "gift"])


class PaymentsMachine(RuleBasedStateMachine):
    ledger: Ledger

    def __init__(self) -> None:
        super().__init__()
        self.user = self.ledger.user()
        self.numbers = itertools.count(1)
        self.orders: list[uuid.UUID] = []
        self.held: list[uuid.UUID] = []
        self.disputes: dict[str, uuid.UUID] = {}

    # --- what happens ------------------------------------------------------------------------

    @initialize()
    def start_with_something(self) -> None:
        self.buy(1990)
        self.spend(45)
        self.give(20, "promo", 3)
        self.dispute(0, 100)

    @precondition(lambda self: len(self.orders) < 3)
    @rule(price=PRICES)
    def buy(self, price: int) -> None:
        order_id = uuid.uuid4()
        self._rows(
            "insert into app.orders (id, user_id, pack_slug, pack_version, credits, unit_amount,"
            " currency, state, expires_at, amount_total, paid_at)"
            " select %s, %s, slug, version, credits, unit_amount, currency, 'paid', app.now(), %s,"
            " app.now() from app.packs where slug = 'credits_50'",
            order_id,
            self.user,
            price,
        )
        self._rows(
            "select app.grant_credits(%s, 50, 'purchase', %s, null, %s)",
            self.user,
            f"order:{order_id}",
            f"order:{order_id}",
        )
        self.orders.append(order_id)

    @rule(amount=st.integers(1, 30), source=FREE, days=st.sampled_from([1, 3, None]))
    def give(self, amount: int, source: str, days: int | None) -> None:
        self.ledger.grant(
            self.user, amount, source=source, lives=None if days is None else f"{days} days"
        )

    @rule(amount=st.integers(1, 50))
    def spend(self, amount: int) -> None:
        subject = uuid.uuid4()
        if outcome_of(lambda: self.ledger.reserve(self.user, amount, subject))[0] == "ok":
            self.ledger.confirm(self.user, subject)

    @rule(amount=st.integers(1, 50))
    def hold(self, amount: int) -> None:
        subject = uuid.uuid4()
        if outcome_of(lambda: self.ledger.reserve(self.user, amount, subject))[0] == "ok":
            self.held.append(subject)

    @precondition(lambda self: self.held)
    @rule(charged=st.integers(0, 3))
    def let_go(self, charged: int) -> None:
        subject = self.held.pop()
        amount = self.ledger.value(
            "select amount from app.reservations where subject_id = %s", subject
        )
        self.ledger.value(
            "select app.refund(%s, 'late_image', %s, %s)",
            self.user,
            subject,
            min(charged, amount - 1),
        )

    @rule(days=st.sampled_from([1, 4]))
    def travel(self, days: int) -> None:
        self.ledger.clock.advance(days=days)

    @rule(which=st.integers(0, 2), percent=st.sampled_from([30, 50, 100]))
    def dispute(self, which: int, percent: int) -> None:
        """Of what is left, as a bank would."""
        order_id = self.orders[which % len(self.orders)]
        amount = (self._price(order_id) - self._out(order_id)) * percent // 100
        if amount:
            dispute_id = f"dp_{self.user}_{next(self.numbers)}"
            self.disputes[dispute_id] = order_id
            self._rows(
                "insert into app.payment_disputes (dispute_id, order_id, user_id, amount, state)"
                " values (%s, %s, %s, %s, 'open')",
                dispute_id,
                order_id,
                self.user,
                amount,
            )
            self._settle(order_id)

    @precondition(lambda self: self.disputes)
    @rule(state=st.sampled_from(["won", "won", "lost"]))
    def decide(self, state: str) -> None:
        dispute_id, order_id = self.disputes.popitem()
        self._rows(
            "update app.payment_disputes set state = %s where dispute_id = %s", state, dispute_id
        )
        self._settle(order_id)

    @rule(which=st.integers(0, 2), credits_=st.sampled_from([None, 1, 7, 20]))
    def give_back(self, which: int, credits_: int | None) -> None:
        """As the buyer. What is worth money is what is left of the order's own lot."""
        order_id = self.orders[which % len(self.orders)]
        own = self.ledger.value(
            "select remaining from app.credit_lots where idempotency_key = %s", f"order:{order_id}"
        )
        before = self._reversed(order_id)
        claims = user_claims(self.user)

        def ask() -> None:
            with scoped(
                self.ledger.database.connection(API_ROLE), "jewelshot_user", claims
            ) as conn:
                conn.execute(
                    "select app.request_return(%s, %s, %s, null, true)",
                    (uuid.uuid4(), order_id, credits_),
                )

        state, _ = outcome_of(ask)
        if state == "ok":
            assert self._reversed(order_id) - before <= own

    @rule(state=st.sampled_from(["succeeded", "failed", "failed"]))
    def answer(self, state: str) -> None:
        """The provider's, to the newest return: it may fail after it has succeeded."""
        for row in self._rows(
            "update app.payment_returns set state = %s where id = ("
            " select id from app.payment_returns where user_id = %s and state <> 'failed'"
            " order by created_at desc, id limit 1) returning order_id",
            state,
            self.user,
        ):
            self._settle(row["order_id"])

    def _settle(self, order_id: uuid.UUID) -> None:
        with self.ledger.database.connection().transaction():
            self.ledger.value("select 1 from app.lock_account(%s)", self.user)
            self.ledger.value("select 1 from app.settle_order(%s)", order_id)

    # --- what must hold ----------------------------------------------------------------------

    @invariant()
    def no_more_goes_out_than_came_in(self) -> None:
        for order_id in self.orders:
            assert self._out(order_id) <= self._price(order_id)

    @invariant()
    def credits_keep_their_source(self) -> None:
        assert self.ledger.database.drift() == []
        bought = self.ledger.value(
            "select count(*) from app.credit_lots where user_id = %s and source = 'purchase'",
            self.user,
        )
        assert bought == len(self.orders)

    def teardown(self) -> None:
        """When nothing went back after all, nothing is missing and nothing was won."""
        self._rows(
            "update app.payment_disputes set state = 'won' where user_id = %s and state <> 'won'",
            self.user,
        )
        self._rows("update app.payment_returns set state = 'failed' where user_id = %s", self.user)
        for order_id in self.orders:
            self._settle(order_id)
        available, reserved, debt = self.ledger.balance(self.user)
        gone = self.ledger.value(
            "select coalesce(sum(amount), 0) from app.ledger_transfers"
            " where user_id = %s and kind in ('confirm', 'expire')",
            self.user,
        )
        granted = self.ledger.value(
            "select coalesce(sum(granted), 0) from app.credit_lots where user_id = %s", self.user
        )
        assert (available + reserved, debt) == (granted - gone, 0)
        assert self.ledger.database.drift() == []

    # --- looks -------------------------------------------------------------------------------

    def _rows(self, query: str, *params: object) -> list[dict[str, Any]]:
        return self.ledger.database.rows(query, params)

    def _price(self, order_id: uuid.UUID) -> int:
        return int(self.ledger.value("select amount_total from app.orders where id = %s", order_id))

    def _reversed(self, order_id: uuid.UUID) -> int:
        return int(
            self.ledger.value("select credits_reversed from app.orders where id = %s", order_id)
        )

    def _out(self, order_id: uuid.UUID) -> int:
        return int(
            self.ledger.value(
                "select coalesce((select sum(amount) from app.payment_returns where order_id = %s"
                "   and state not in ('failed', 'canceled', 'refused')), 0)"
                " + coalesce((select sum(amount) from app.payment_disputes where order_id = %s"
                "   and state in ('open', 'lost')), 0)",
                order_id,
                order_id,
            )
        )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_money_out_is_at_most_money_in(database: TestDatabase) -> None:
    class Machine(PaymentsMachine):
        pass

    Machine.ledger = Ledger(database)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
