"""The order of all locks (account, reservation, lots, batch, generation, call, task, line), tried
step by step: each row is held by somebody, and the sessions that need it arrive in each order."""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from core.payments.types import OrderState
from core.pixels.pool import PixelPool
from core.settings import Settings
from tests.concurrency.test_generation_races import Call, Desk, cancel, deliver, one
from tests.harness.database import TestDatabase
from tests.harness.ledger import Conn, admin_claims, scoped, states, user_claims
from tests.harness.locks import LockOrder, Work, lock_order
from tests.harness.payments import PaymentsHarness, payments_settings, set_up_payments

pytestmark = [pytest.mark.race, pytest.mark.timeout(180)]

# Each row that the end of a generation touches, as somebody else would hold it.
ROWS = {
    "account": "select from app.credit_accounts where user_id = %(user_id)s for update",
    "reservation": "select from app.reservations where subject_id = %(generation_id)s for update",
    "lot": "select from app.credit_lots where user_id = %(user_id)s for update",
    "generation": "select from app.generations where id = %(generation_id)s for update",
    "call": "select from app.provider_calls where id = %(id)s for update",
    "task": "select from app.outbox where lease_token = %(lease)s for update",
}


@pytest.fixture
def order(database: TestDatabase) -> Iterator[LockOrder]:
    with lock_order(database) as made:
        yield made


@pytest.fixture
def desk(database: TestDatabase) -> Desk:
    return Desk(database)


def _row(table: str, column: str) -> str:
    return f"select from app.{table} where {column} = %s for update"


def test_a_circle_would_be_seen(order: LockOrder, desk: Desk) -> None:
    """Two that lock the account and the generation in different orders, as none of ours may."""
    (call,) = desk.accepted(1)
    values = {"user_id": call.user_id, "generation_id": call.generation_id}

    def locking(*rows: str) -> Work:
        def work(conn: Conn) -> None:
            with conn.transaction():
                for row in rows:
                    conn.execute(ROWS[row].encode(), values)

        return work

    with order.held(ROWS["generation"], values):
        wrong = order.start(locking("generation", "account"))
        right = order.start(locking("account", "generation"))
        assert wrong.was_waiting
        assert right.was_waiting
    assert sorted(states([wrong.result(), right.result()])) == ["40P01", "ok"]


# --- generations ---------------------------------------------------------------------------------


def _works(call: Call) -> dict[str, Work]:
    return {
        "end": lambda conn: deliver(conn, call),
        "cancel": lambda conn: cancel(conn, call.user_id, call.generation_id),
        "sweep": lambda conn: conn.execute("select app.sweep_deadlines(10)").fetchall(),
        "webhook": lambda conn: one(
            conn, "select app.receive_provider_webhook(%s, %s, 'r')", call.id, call.token
        ),
        "expiry": lambda conn: one(conn, "select app.expire_credits(10)"),
    }


@pytest.mark.parametrize(
    "names",
    [
        *itertools.permutations(["end", "cancel", "sweep"]),
        ("webhook", "end"),
        ("end", "webhook"),
        ("webhook", "sweep"),
        ("sweep", "webhook"),
        ("expiry", "end"),
        ("end", "expiry"),
    ],
    ids="-".join,
)
def test_whatever_is_held_and_whoever_comes_first_it_ends_once(
    names: tuple[str, ...], order: LockOrder, desk: Desk, database: TestDatabase
) -> None:
    waited = {}
    for row, held in ROWS.items():
        (call,) = desk.accepted(1)
        database.clock.advance_past(
            "select deadline_at from app.generations where id = %s", (call.generation_id,)
        )
        works = _works(call)
        values = {field: getattr(call, field) for field in Call.__struct_fields__}
        with order.held(held, values):
            sessions = [order.start(works[name]) for name in names]
        waited[row] = any(session.was_waiting for session in sessions)
        ended = states([session.result() for session in sessions])
        assert set(ended) <= {"ok", "JS409", "JS430"}, (row, ended)

        database.rows("select app.sweep_deadlines(10)")  # what was held when the sweep came by
        state = desk.generation(call.generation_id)["state"]
        assert state in {"succeeded", "failed", "cancelled"}
        balance = desk.ledger.balance(call.user_id)
        assert balance == ((0, 0, 0) if state == "succeeded" else (1, 0, 0)), row
        assert database.drift() == []
    # Credits that are spent stay gone from their lots; those of a sweep go back to them.
    needed = set(ROWS) - ({"lot"} if names[0] != "sweep" else set())
    if set(names) == {"sweep", "webhook"}:
        needed -= {"account"}  # a sweep passes over who is locked, and a webhook moves no money
    assert {row for row, somebody in waited.items() if somebody} >= needed


# --- tasks ---------------------------------------------------------------------------------------


def _add(conn: Conn) -> uuid.UUID:
    made: uuid.UUID = one(conn, "select app.add_task('toy.polish', '{}', 'ring')")
    return made


def _claimed(desk: Desk, database: TestDatabase) -> tuple[uuid.UUID, uuid.UUID]:
    """A task that runs, and its lease."""
    task_id = _add(database.connection())
    return task_id, desk.lease(task_id)


def _tasks(database: TestDatabase) -> list[tuple[uuid.UUID, int, bool]]:
    rows = database.rows("select id, wanted, lease_token is not null as runs from app.outbox")
    return [(row["id"], row["wanted"], row["runs"]) for row in rows]


def test_who_adds_while_it_completes_makes_a_new_task(
    order: LockOrder, desk: Desk, database: TestDatabase
) -> None:
    """The row is deleted and not committed: who adds the same one waits, and finds it gone."""
    task_id, lease = _claimed(desk, database)
    with order.held("select app.complete_task(%s)", (lease,)):
        adder = order.start(_add)
        assert adder.was_waiting
    added = adder.result()
    assert added != task_id
    assert _tasks(database) == [(added, 1, False)]


def test_who_adds_while_an_end_is_taken_back_wants_the_same_task(
    order: LockOrder, desk: Desk, database: TestDatabase
) -> None:
    task_id, lease = _claimed(desk, database)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012, SIM117  what waits is looked at inside
        with order.held("select app.complete_task(%s)", (lease,)):
            adder = order.start(_add)
            assert adder.was_waiting
            raise ZeroDivisionError
    assert adder.result() == task_id
    assert _tasks(database) == [(task_id, 2, True)]


def test_who_completes_while_somebody_adds_gives_it_back(
    order: LockOrder, desk: Desk, database: TestDatabase
) -> None:
    """Wanted once more since the claim: the end releases the row instead of deleting it."""
    task_id, lease = _claimed(desk, database)
    with order.held("select app.add_task('toy.polish', '{}', 'ring')"):
        end = order.start(lambda conn: one(conn, "select app.end_task(%s)", lease))
        assert end.was_waiting
    assert end.result() is True
    assert _tasks(database) == [(task_id, 2, False)]


# --- payments ------------------------------------------------------------------------------------


@pytest.fixture
async def payments(
    database: TestDatabase, make_settings: Callable[..., Settings]
) -> AsyncIterator[PaymentsHarness]:
    settings = make_settings(**payments_settings())
    async with set_up_payments(settings, database, PixelPool(1)) as made:
        yield made


async def test_two_buyers_settle_side_by_side(order: LockOrder, payments: PaymentsHarness) -> None:
    ada, bob = payments.buyer(), payments.buyer()
    hers, his = await ada.order(), await bob.order()
    for each in (hers, his):
        await payments.pay(each)
    with order.held(_row("credit_accounts", "user_id"), (ada.id,)):
        waiting = asyncio.create_task(payments.sync(hers))
        await order.until_waiting(1)
        assert (await payments.sync(his)).state is OrderState.PAID, "nobody waits for others' money"
        assert ada.balance() == (0, 0, 0)
    assert (await waiting).state is OrderState.PAID
    assert [ada.balance(), bob.balance()] == [(50, 0, 0), (50, 0, 0)]


@pytest.mark.parametrize("held", ["account", "order"])
async def test_two_orders_of_one_buyer_settle_one_after_the_other(
    held: str, order: LockOrder, payments: PaymentsHarness
) -> None:
    ada = payments.buyer()
    first, second = await ada.order("credits_10"), await ada.order("credits_50")
    for each in (first, second):
        await payments.pay(each)
    row = ("credit_accounts", "user_id") if held == "account" else ("orders", "id")
    with order.held(_row(*row), (ada.id if held == "account" else first.id,)):
        one_ = asyncio.create_task(payments.sync(first))
        await order.until_waiting(1)
        other = asyncio.create_task(payments.sync(second))
        await order.until_waiting(2)
    assert [(await each).state for each in (one_, other)] == [OrderState.PAID] * 2
    assert ada.balance() == (60, 0, 0)


async def test_whoever_looks_at_an_order_holds_its_task_last(
    order: LockOrder, payments: PaymentsHarness, database: TestDatabase
) -> None:
    """An admin's review takes the order and then its sync, so no look may take them otherwise."""
    ada = payments.buyer()
    looked_at = await ada.order()

    def look(conn: Conn) -> Any:
        with scoped(conn, "jewelshot_user", user_claims(ada.id)):
            return one(conn, "select app.request_order_sync(%s)", looked_at.id)

    def review(conn: Conn) -> Any:
        return one(
            conn,
            "select app.add_task('payment.sync', '{}', %s)",
            str(looked_at.id),
        )

    database.rows("update app.orders set fetch_started_at = null, looked_at = null")
    with order.held(_row("orders", "id"), (looked_at.id,)):
        looking = order.start(look)
        reviewing = order.start(review)
        assert looking.was_waiting
        assert not reviewing.was_waiting
    assert states([looking.result(), reviewing.result()]) == ["ok", "ok"]


@pytest.mark.parametrize("held", ["stripe_events", "outbox"])
@pytest.mark.parametrize("names", list(itertools.permutations(["handle", "replay"])), ids="-".join)
def test_an_event_is_handled_and_replayed(
    names: tuple[str, ...], held: str, order: LockOrder, desk: Desk, database: TestDatabase
) -> None:
    conn = database.connection()
    one(conn, "select app.receive_stripe_event('evt', 'x', 'o', 1, '{}', 'webhook')")
    lease = desk.lease(database.row("select id from app.outbox")["id"])

    def handle(conn: Conn) -> None:
        with conn.transaction():
            one(conn, "select app.finish_stripe_event('evt', 'ignored', null)")
            one(conn, "select app.complete_task(%s)", lease)

    claims = admin_claims(database)

    def replay(conn: Conn) -> Any:
        with scoped(conn, "jewelshot_admin", claims):
            return one(conn, "select app.replay_stripe_events(array['evt'], null, null, null, 10)")

    works: dict[str, Work] = {"handle": handle, "replay": replay}
    with order.held(f"select from app.{held} for update"):
        sessions = [order.start(works[name]) for name in names]
        assert sessions[0].was_waiting
    assert states([session.result() for session in sessions]) == ["ok", "ok"]
    (task,) = database.rows("select lease_token from app.outbox")
    assert task["lease_token"] is None, "it runs once more"
