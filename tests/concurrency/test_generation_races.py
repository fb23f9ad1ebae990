"""Many at once on the same generations and calls: whoever wins, one image, one charge."""

import random
import uuid
from collections import Counter
from typing import Any

import msgspec
import pytest

from tests.harness.database import TestDatabase
from tests.harness.ledger import (
    Conn,
    Ledger,
    admin_claims,
    connect,
    race,
    scoped,
    start_generation,
    states,
    user_claims,
)

pytestmark = [pytest.mark.race, pytest.mark.timeout(180)]

KEYS = {"one": "key-1", "two": "key-2"}
PRICES = {"packshot": 1, "scene_hd": 6}
RESULT = {"result": {"storage_key": "out.png", "thumbnail_key": "thumb.jpg"}}
ENDING = {"ending": "provider_failed"}


class Call(msgspec.Struct, frozen=True):
    """A call that the provider has accepted, and the leased task that collects it."""

    user_id: uuid.UUID
    generation_id: uuid.UUID
    id: uuid.UUID
    token: str
    lease: uuid.UUID


class Desk:
    """Generations and calls, made by the functions that the API and the worker call."""

    def __init__(self, database: TestDatabase) -> None:
        self.database = database
        self.ledger = Ledger(database)

    def keys(self, slots: int) -> None:
        document = [
            {"name": name, "fingerprint": key, "account": name} for name, key in KEYS.items()
        ]
        self.ledger.value(
            "select app.sync_provider_keys(%s::jsonb, %s)",
            msgspec.json.encode(document).decode(),
            slots,
        )

    def queued(
        self, people: int, each: int, operation: str = "packshot"
    ) -> list[tuple[uuid.UUID, uuid.UUID]]:
        """(person, generation)."""
        made = []
        with connect(self.database.api_url) as conn:
            for _ in range(people):
                user_id = self.ledger.user(each * PRICES[operation])
                photo = self.ledger.upload(user_id)
                made += [
                    (user_id, start_generation(conn, user_id, photo, operation))
                    for _ in range(each)
                ]
        return made

    def accepted(self, generations: int, operation: str = "packshot") -> list[Call]:
        self.keys(generations)
        self.queued(generations, 1, operation)
        return [self._accept(intent) for intent in self.intents(generations)]

    def intents(self, limit: int) -> list[dict[str, Any]]:
        with connect(self.database.worker_url) as conn:
            return take(conn, limit)

    def _accept(self, intent: dict[str, Any]) -> Call:
        self.ledger.value(
            "select app.record_accepted(%s, %s, 'http://s', 'http://r', 'http://c', 4)",
            intent["call_id"],
            f"request-{intent['call_id']}",
        )
        return Call(
            user_id=uuid.UUID(intent["user_id"]),
            generation_id=uuid.UUID(intent["generation_id"]),
            id=uuid.UUID(intent["call_id"]),
            token=intent["callback_token"],
            lease=self.lease(self.ledger.value("select app.ensure_collect(%s)", intent["call_id"])),
        )

    def lease(self, task_id: uuid.UUID) -> uuid.UUID:
        lease = uuid.uuid4()
        self.database.rows(
            "update app.outbox set claimed = wanted, lease_token = %s,"
            " lease_until = app.now() + interval '1 hour'"
            " where id = %s",
            (lease, task_id),
        )
        return lease

    def generation(self, generation_id: uuid.UUID) -> dict[str, Any]:
        return self.database.row("select * from app.generations where id = %s", (generation_id,))


@pytest.fixture
def desk(database: TestDatabase) -> Desk:
    return Desk(database)


def take(conn: Conn, limit: int) -> list[dict[str, Any]]:
    rows = conn.execute(
        "select app.open_calls(%s, %s, 60) as intent", (list(KEYS.values()), limit)
    ).fetchall()
    return [row["intent"] for row in rows]


def one(conn: Conn, query: str, *params: object) -> Any:
    row = conn.execute(query.encode(), params).fetchone()
    return next(iter(row.values())) if row else None


def cancel(conn: Conn, user_id: uuid.UUID, generation_id: uuid.UUID) -> Any:
    with scoped(conn, "jewelshot_user", user_claims(user_id)):
        return one(conn, "select app.cancel_generation(%s)", generation_id)


def deliver(conn: Conn, call: Call) -> Any:
    """As the collector that has an image in hand: two transactions."""
    one(conn, "select app.begin_collect(%s, true)", call.id)
    facts = {"call_id": str(call.id), "call": {"state": "succeeded"}, **RESULT}
    return one(
        conn,
        "select app.finish_generation(%s, %s, 'succeeded', %s::jsonb)",
        call.generation_id,
        call.lease,
        msgspec.json.encode(facts).decode(),
    )


def webhook(conn: Conn, call: Call) -> Any:
    return one(
        conn,
        "select app.receive_provider_webhook(%s, %s, %s)",
        call.id,
        call.token,
        f"request-{call.id}",
    )


# --- intents -------------------------------------------------------------------------------------


def test_many_dispatchers_fill_the_slots_exactly(desk: Desk, database: TestDatabase) -> None:
    desk.keys(slots=5)
    desk.queued(people=4, each=6)
    taken = race(database.worker_url, [lambda conn: take(conn, 3)] * 12)
    assert set(states(taken)) == {"ok"}
    ids = [intent["generation_id"] for intents in taken for intent in intents]
    assert len(ids) == len(set(ids)) == 10
    held = database.rows(
        "select account.name, count(*) as held from app.provider_calls as call"
        " join app.provider_accounts as account on account.id = call.account_id group by 1"
    )
    assert {row["name"]: row["held"] for row in held} == {"one": 5, "two": 5}
    assert (
        database.rows("select generation_id from app.provider_calls group by 1 having count(*) > 1")
        == []
    )


def test_dispatchers_against_cancels(desk: Desk, database: TestDatabase) -> None:
    """Either it was cancelled for nothing, or it was started and the cancel is a request."""
    desk.keys(slots=20)
    made = desk.queued(people=3, each=5)
    works = [
        *([lambda conn: take(conn, 2)] * 8),
        *(
            lambda conn, user=user, generation=generation: cancel(conn, user, generation)
            for user, generation in made
        ),
    ]
    random.Random(1).shuffle(works)
    answers = race(database.url(), works)
    assert set(states(answers)) == {"ok"}
    for user_id, generation_id in made:
        found = desk.generation(generation_id)
        calls = database.rows(
            "select state from app.provider_calls where generation_id = %s", (generation_id,)
        )
        if found["state"] == "cancelled":
            assert calls == []
        else:
            assert (found["state"], len(calls)) == ("submitting", 1)
            assert found["cancel_requested_at"] is not None
        assert desk.ledger.balance(user_id)[0] >= 0
    cancelled = [desk.generation(made_id)["state"] for _, made_id in made].count("cancelled")
    refunded = sum(desk.ledger.balance(user)[0] for user in {user for user, _ in made})
    assert refunded == cancelled


def test_nobody_who_waits_is_ever_out_of_line(desk: Desk, database: TestDatabase) -> None:
    """Orders, tickets, refused submits and cancels at once, by few people, so that lines empty."""
    desk.keys(slots=500)
    people = [(user, desk.ledger.upload(user)) for user in (desk.ledger.user(60) for _ in range(3))]

    def order(conn: Conn, seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(20):
            user_id, photo = draw.choice(people)
            made = start_generation(conn, user_id, photo)
            if draw.random() < 0.3:
                cancel(conn, user_id, made)

    def serve(conn: Conn, seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(40):
            for intent in take(conn, draw.randint(1, 3)):
                if draw.random() < 0.4:
                    one(
                        conn,
                        'select app.record_not_accepted(%s, \'{"state": "refused"}\', 0)',
                        intent["call_id"],
                    )

    works: list[Any] = []
    for seed in range(5):
        works.append(lambda conn, seed=seed: order(conn, seed))
        works.append(lambda conn, seed=seed: serve(conn, seed))
    assert set(states(race(database.url(), works))) == {"ok"}
    assert database.drift() == []
    desk.intents(500)
    waiting = database.rows(
        "select id from app.generations where state = 'queued' and cancel_requested_at is null"
    )
    assert waiting == [], "whoever waited was served"
    assert desk.intents(1) == []
    assert database.rows("select * from app.lines") == []


# --- answers -------------------------------------------------------------------------------------


def test_every_answer_to_one_call_at_once(desk: Desk, database: TestDatabase) -> None:
    """Submit's answer, webhooks and polls: one call, one task, no lost field."""
    desk.keys(slots=10)
    desk.queued(people=5, each=1)
    for intent in desk.intents(5):
        call_id = intent["call_id"]
        known = (call_id, intent["callback_token"])

        def answer(conn: Conn, call_id: str = call_id) -> Any:
            return one(
                conn,
                "select app.record_accepted(%s, 'r', 'http://s', 'http://r', 'http://c', 4)",
                call_id,
            )

        def webhook(conn: Conn, known: tuple[str, str] = known) -> Any:
            return one(conn, "select app.receive_provider_webhook(%s, %s, 'r')", *known)

        def poll(conn: Conn, call_id: str = call_id) -> Any:
            return one(conn, "select app.ensure_collect(%s)", call_id)

        results = race(database.url(), [answer, webhook, webhook, webhook, poll, poll])
        assert set(states(results)) == {"ok"}
        call = database.row("select * from app.provider_calls where id = %s", (call_id,))
        assert (call["state"], call["request_id"], call["status_url"]) == (
            "accepted",
            "r",
            "http://s",
        )
        assert desk.generation(intent["generation_id"])["state"] == "running"
        tasks = database.rows(
            "select 1 from app.outbox where job = 'provider_call.collect' and dedupe_key = %s",
            (call_id,),
        )
        assert len(tasks) == 1


def test_the_end_of_a_grace_against_its_webhook(desk: Desk, database: TestDatabase) -> None:
    desk.keys(slots=20)
    desk.queued(people=8, each=1)
    intents = desk.intents(8)
    for intent in intents:
        desk.ledger.value("select app.record_ambiguous(%s, 'lost', 0)", intent["call_id"])
    database.clock.advance_past("select max(grace_until) from app.provider_calls")
    works = [lambda conn: conn.execute("select app.sweep_calls(60, 3, 100)").fetchall()] * 3
    works += [
        lambda conn, intent=intent: one(  # type: ignore[misc]  # mypy infers no type for a lambda with a default
            conn,
            "select app.receive_provider_webhook(%s, %s, 'r')",
            intent["call_id"],
            intent["callback_token"],
        )
        for intent in intents
    ]
    random.Random(2).shuffle(works)
    assert set(states(race(database.url(), works))) == {"ok"}
    for intent in intents:
        found = desk.generation(intent["generation_id"])
        call = database.row("select * from app.provider_calls where id = %s", (intent["call_id"],))
        assert (found["state"], call["state"], found["resubmissions"]) in {
            ("running", "accepted", 0),
            ("queued", "abandoned", 1),
            ("running", "abandoned", 0),  # taken back from the queue by its webhook
        }
    assert len(database.rows("select 1 from app.outbox where job = 'provider_call.collect'")) == 8


# --- ends ----------------------------------------------------------------------------------------


def test_an_image_against_deadline_cancel_and_dead_letter(
    desk: Desk, database: TestDatabase
) -> None:
    """Each generation ends once, and its money with it; a refused image is kept for sale."""
    calls = desk.accepted(12)
    database.clock.advance_past("select max(deadline_at) from app.generations")
    works: list[Any] = [
        *([lambda conn: conn.execute("select app.sweep_deadlines(100)").fetchall()] * 3),
        *(lambda conn, call=call: deliver(conn, call) for call in calls),
        *(lambda conn, call=call: cancel(conn, call.user_id, call.generation_id) for call in calls),
        *(
            lambda conn, call=call: one(conn, "select app.dead_letter_task(%s, 'x')", call.lease)
            for call in calls[:6]
        ),
    ]
    random.Random(3).shuffle(works)
    seen = Counter(states(race(database.url(), works)))
    assert set(seen) <= {"ok", "JS430", "JS409"}, "nobody waits for each other in a circle"
    database.rows("select app.sweep_deadlines(100)")  # what was held when the sweeps came by

    for call in calls:
        found = desk.generation(call.generation_id)
        late = database.rows(
            "select 1 from app.late_images where generation_id = %s", (call.generation_id,)
        )
        balance = desk.ledger.balance(call.user_id)
        assert found["state"] in {"succeeded", "failed", "cancelled"}
        assert balance == ((0, 0, 0) if found["state"] == "succeeded" else (1, 0, 0))
        assert not (late and found["state"] == "succeeded")
        kinds = [kind for kind, *_ in desk.ledger.transfers(call.user_id)]
        assert kinds.count("confirm") + kinds.count("refund") == 1
        ends = database.rows(
            "select 1 from app.events where subject_id = %s"
            " and type in ('generation.succeeded', 'generation.failed', 'generation.cancelled')",
            (call.generation_id,),
        )
        assert len(ends) == 1


def advance(conn: Conn, call: Call) -> Any:
    """As the collector that has the image of a first step."""
    one(conn, "select app.begin_collect(%s, true)", call.id)
    return one(
        conn,
        "select app.advance_generation(%s, %s, %s, 'step-0.png', 60)",
        call.id,
        call.lease,
        '{"state": "succeeded", "billable_units": "1"}',
    )


def end_cancelled(conn: Conn, call: Call) -> Any:
    """As the collector whose call was cancelled at the provider."""
    facts = {"call_id": str(call.id), "call": {"state": "cancelled"}, "ending": "cancelled"}
    return one(
        conn,
        "select app.finish_generation(%s, %s, 'cancelled', %s::jsonb)",
        call.generation_id,
        call.lease,
        msgspec.json.encode(facts).decode(),
    )


def test_a_cancel_against_the_step_that_is_delivered(desk: Desk, database: TestDatabase) -> None:
    """Whoever wins: a delivered step costs its share, once, and nothing else costs anything."""
    calls = desk.accepted(12, "scene_hd")
    works: list[Any] = [
        *(lambda conn, call=call: advance(conn, call) for call in calls),
        *(lambda conn, call=call: cancel(conn, call.user_id, call.generation_id) for call in calls),
        *(lambda conn, call=call: end_cancelled(conn, call) for call in calls[:6]),
        *([lambda conn: conn.execute("select app.sweep_deadlines(100)").fetchall()] * 4),
    ]
    random.Random(5).shuffle(works)
    seen = Counter(states(race(database.url(), works)))
    assert set(seen) <= {"ok", "JS430", "JS409"}, "nobody waits for each other in a circle"
    # What still runs has been asked to stop, and its second call is cancelled at the provider.
    for call in calls:
        found = desk.generation(call.generation_id)
        if found["finished_at"] is None and found["state"] != "queued":
            facts = '{"call_id": "%s", "call": {"state": "cancelled"}, "ending": "cancelled"}'
            desk.ledger.value(
                "select app.finish_generation(%s, null, 'cancelled', %s::jsonb)",
                call.generation_id,
                facts % found["current_call_id"],
            )
    desk.ledger.value("select count(*) from app.sweep_deadlines(100)")
    for call in calls:
        found = desk.generation(call.generation_id)
        assert found["state"] == "cancelled"
        share = 4 if found["step"] == 1 else 0
        assert found["charged_credits"] == share
        assert desk.ledger.balance(call.user_id) == (6 - share, 0, 0)
        kinds = [kind for kind, *_ in desk.ledger.transfers(call.user_id)]
        assert kinds.count("confirm") == (1 if share else 0)
        assert kinds.count("refund") == 1


def test_ten_cancels_of_one_run_between_its_steps(desk: Desk, database: TestDatabase) -> None:
    (call,) = desk.accepted(1, "scene_hd")
    with connect(database.worker_url) as conn:
        advance(conn, call)
    database.rows(
        "update app.generations set state = 'queued' where id = %s", (call.generation_id,)
    )
    answers = race(
        database.api_url, [lambda conn: cancel(conn, call.user_id, call.generation_id)] * 10
    )
    assert set(states(answers)) == {"ok"}
    assert desk.ledger.balance(call.user_id) == (2, 0, 0)
    assert [kind for kind, *_ in desk.ledger.transfers(call.user_id)] == [
        *("grant", "reserve", "confirm", "refund")
    ]


def test_two_images_for_one_generation(desk: Desk, database: TestDatabase) -> None:
    """Both calls of a generation that was submitted again come back at once: one is delivered."""
    firsts = desk.accepted(5)
    database.rows("update app.provider_calls set state = 'abandoned', ended_at = app.now()")
    database.rows("update app.generations set state = 'uncertain'")
    database.rows("update app.generations set state = 'queued', resubmissions = 1")
    desk.keys(20)
    seconds = {intent["generation_id"]: desk._accept(intent) for intent in desk.intents(10)}
    assert len(seconds) == 5
    works: list[Any] = []
    for first in firsts:
        second = seconds[str(first.generation_id)]
        works += [lambda conn, call=call: deliver(conn, call) for call in (first, second)]
    results = race(database.url(), works)
    assert set(states(results)) == {"ok"}
    assert Counter(change["late"] for change in results) == {False: 5, True: 5}
    for first in firsts:
        assert desk.ledger.balance(first.user_id) == (0, 0, 0)
        assert desk.generation(first.generation_id)["state"] == "succeeded"
    assert database.rows("select 1 from app.late_images") == []


def test_webhooks_during_the_end(desk: Desk, database: TestDatabase) -> None:
    """A webhook that comes in the middle leaves no task that would find nothing, or finds it."""
    calls = desk.accepted(8)
    works: list[Any] = []
    for call in calls:
        works += [lambda conn, call=call: deliver(conn, call)]
        works += [lambda conn, call=call: webhook(conn, call)] * 2
    random.Random(4).shuffle(works)
    assert set(states(race(database.url(), works))) == {"ok"}
    for call in calls:
        assert desk.generation(call.generation_id)["state"] == "succeeded"
        assert desk.ledger.balance(call.user_id) == (0, 0, 0)


def test_a_late_image_is_bought_once(desk: Desk, database: TestDatabase) -> None:
    (call,) = desk.accepted(1)
    desk.ledger.grant(call.user_id, 9)
    one_cancel = {"call_id": None, **ENDING}
    desk.ledger.value(
        "select app.finish_generation(%s, null, 'failed', %s::jsonb)",
        call.generation_id,
        msgspec.json.encode(one_cancel).decode(),
    )
    with connect(database.url()) as conn:
        deliver(conn, call)

    def buy(conn: Conn) -> Any:
        with scoped(conn, "jewelshot_user", user_claims(call.user_id)):
            return one(conn, "select app.buy_late_image(%s, %s)", uuid.uuid4(), call.generation_id)

    results = race(database.api_url, [buy] * 10)
    assert Counter(states(results)) == {"ok": 1, "JS409": 9}
    assert desk.ledger.balance(call.user_id) == (9, 0, 0)
    assert len(database.rows("select 1 from app.generations where state = 'succeeded'")) == 1


def test_a_dead_letter_is_replayed_once(desk: Desk, database: TestDatabase) -> None:
    (call,) = desk.accepted(1)
    desk.ledger.value("select app.dead_letter_task(%s, 'broken')", call.lease)
    letter = desk.ledger.value("select id from app.dead_letters")

    claims = admin_claims(database)

    def replay(conn: Conn) -> Any:
        with scoped(conn, "jewelshot_admin", claims):
            return one(conn, "select app.replay_dead_letter(%s)", letter)

    results = race(database.api_url, [replay] * 8)
    assert set(states(results)) == {"ok"}
    assert len(set(results)) == 1
    live = database.rows("select 1 from app.outbox where job = 'provider_call.collect'")
    assert len(live) == 1
