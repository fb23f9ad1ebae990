"""One generation explained from rows that the real functions wrote."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from core.db import Connection, Database, user_scope
from core.errors import NotFoundError
from core.generations import explain as explaining
from core.generations.endings import Ending, ending_in_words
from core.generations.explanation import Explanation, LineKind, Outcome
from tests.harness.database import TestDatabase
from tests.harness.ledger import Ledger, connect, scoped, user_claims

Explain = Callable[[uuid.UUID, uuid.UUID], Awaitable[Explanation]]


@pytest.fixture
def explain(db_api: Database) -> Explain:
    async def ask(user_id: uuid.UUID, generation_id: uuid.UUID) -> Explanation:
        async def work(conn: Connection) -> Explanation:
            return await explaining.explain(conn, generation_id)

        return await db_api.run(work, scope=user_scope(user_claims(user_id)))

    return ask


@pytest.fixture
def ledger(ledger: Ledger) -> Ledger:
    ledger.value(
        "select app.sync_provider_keys(%s::jsonb, 5)",
        '[{"name": "FAL_AI_KEY_1", "fingerprint": "f", "account": "a"}]',
    )
    return ledger


def open_call(ledger: Ledger) -> dict[str, Any]:
    taken: dict[str, Any] = ledger.value("select app.open_calls(array['f'], 1, 30)")
    return taken


def accept(ledger: Ledger, call: dict[str, Any]) -> None:
    ledger.value("select app.record_accepted(%s, 'r', 's', 'u', 'c', 5)::text", call["call_id"])


def deliver(ledger: Ledger, call: dict[str, Any]) -> None:
    ledger.value("select app.begin_collect(%s) ->> 'role'", call["call_id"])
    ledger.value(
        "select app.finish_generation(%s, null, 'succeeded', %s::jsonb)",
        call["generation_id"],
        f'{{"call_id": "{call["call_id"]}", "result": {{"storage_key": "k"}},'
        ' "call": {"state": "succeeded", "http_status": 200, "billable_units": "1.50"}}',
    )


def fail(ledger: Ledger, call: dict[str, Any]) -> None:
    ledger.value("select app.begin_collect(%s) ->> 'role'", call["call_id"])
    ledger.value(
        "select app.finish_generation(%s, null, 'failed', %s::jsonb)",
        call["generation_id"],
        f'{{"call_id": "{call["call_id"]}",'
        ' "ending": "input_refused",'
        ' "call": {"state": "failed", "http_status": 422,'
        ' "error_type": "content_policy_violation", "billable_units": "0.2"}}',
    )


def texts(explanation: Explanation) -> list[str]:
    return [line.text for line in explanation.lines]


async def test_a_delivered_generation(ledger: Ledger, explain: Explain) -> None:
    user = ledger.user(10, source="signup", lives="90 days")
    generation = ledger.start(user, ledger.upload(user))
    waiting = await explain(user, generation)
    assert (waiting.outcome, waiting.reserved, waiting.charged) == (Outcome.RESERVED, 1, 0)
    assert waiting.summary == "Packshot has not ended. Set aside for it: 1 credit."
    call = open_call(ledger)
    accept(ledger, call)
    deliver(ledger, call)
    explained = await explain(user, generation)
    assert (explained.outcome, explained.charged, explained.refunded) == (Outcome.CHARGED, 1, 0)
    assert (explained.provider_calls, explained.resubmissions, explained.billable_units) == (
        1,
        0,
        "1.5",
    )
    assert explained.summary == "Packshot was delivered and cost 1 credit."
    said = texts(explained)
    assert said[0].startswith("1 credit set aside for packshot, from your sign-up credits, which")
    assert said[1:] == [
        "Accepted. It waits for its turn.",
        "Its turn has come: it is being sent to the provider.",
        "Call 1: sent to fal-ai/birefnet/v2.",
        "Call 1: the provider took it.",
        "The provider has taken it and works on it.",
        "The provider is done: the image is being fetched and checked.",
        "The provider finished call 1; it billed us 1.5 units, you nothing beyond the price.",
        "The image was delivered.",
        "1 credit spent, because the image was delivered.",
    ]
    times = [line.at for line in explained.lines]
    assert times == sorted(times)


async def test_a_failed_generation_after_two_calls(ledger: Ledger, explain: Explain) -> None:
    user = ledger.user()
    ledger.grant(user, 1, lives="5 minutes")
    generation = ledger.start(user, ledger.upload(user))
    first = open_call(ledger)
    ledger.value("select app.record_ambiguous(%s, 'connection reset', -1)::text", first["call_id"])
    ledger.database.rows("select app.sweep_calls(0, 5, 10)")
    second = open_call(ledger)
    assert second["call_id"] != first["call_id"]
    accept(ledger, second)
    ledger.clock.advance(minutes=6)
    fail(ledger, second)
    explained = await explain(user, generation)
    assert (explained.outcome, explained.charged, explained.refunded) == (Outcome.REFUNDED, 0, 1)
    assert (explained.provider_calls, explained.resubmissions, explained.billable_units) == (
        2,
        1,
        "0.2",
    )
    said = texts(explained)
    assert said.index("Call 1: sent to fal-ai/birefnet/v2.") == 3
    assert "Call 1: its answer was lost, so we could not know whether the provider took it." in said
    assert any(text.startswith("We stopped waiting for call 1") for text in said)
    assert any(text.startswith("Call 2: sent to fal-ai/birefnet/v2 again") for text in said)
    assert "Back in the queue for another attempt." in said
    assert (
        "The provider failed call 2 (HTTP 422, content policy violation); it billed us 0.2 units,"
        " you nothing beyond the price." in said
    )
    assert said[-2] == "It ended without an image: " + ending_in_words(Ending.INPUT_REFUSED)
    assert said[-1].startswith("1 credit came back to your bought credits. They had expired")
    money = [line.money for line in explained.lines if line.money]
    assert money[-1].extended_from is not None
    assert money[-1].lot_expires_at is not None
    assert money[-1].lot_expires_at > money[-1].extended_from


async def test_a_refund_that_pays_debt(ledger: Ledger, explain: Explain) -> None:
    user = ledger.user(4)
    generation = ledger.start(user, ledger.upload(user), "scene")
    ledger.reverse(user, 3, "re_1")
    ledger.finish(generation, "failed")
    explained = await explain(user, generation)
    assert explained.refunded == 4
    assert texts(explained)[-2:] == [
        "3 credits set aside before did not come back to you, but paid your debt.",
        "1 credit came back to your bought credits.",
    ]
    assert ledger.balance(user) == (1, 0, 0)


async def test_steps_and_cancel_and_late_image(ledger: Ledger, explain: Explain) -> None:
    user = ledger.user(12)
    generation = ledger.start(user, ledger.upload(user), "scene_hd")
    first = open_call(ledger)
    accept(ledger, first)
    ledger.value("select app.begin_collect(%s) ->> 'role'", first["call_id"])
    second = ledger.value(
        "select app.advance_generation(%s, null, %s, 'step.png', 30)",
        first["call_id"],
        '{"state": "succeeded"}',
    )
    accept(ledger, second)
    with (
        connect(ledger.database.api_url) as conn,
        scoped(conn, "jewelshot_user", user_claims(user)),
    ):
        conn.execute("select app.cancel_generation(%s)", (generation,))
    ledger.clock.advance_past(
        "select deadline_at from app.generations where id = %s", (generation,)
    )
    ledger.database.rows("select app.sweep_deadlines(10)")
    explained = await explain(user, generation)
    assert (explained.state, explained.outcome) == ("cancelled", Outcome.CHARGED_IN_PART)
    assert "You asked to cancel it. The provider was asked too" in "\n".join(texts(explained))
    deliver(ledger, second)
    explained = await explain(user, generation)
    assert "Call 2, step 2 of 2: sent to fal-ai/seedvr/upscale/image." in texts(explained)
    late = next(line for line in explained.lines if "came after" in line.text)
    assert "you may buy it for 2 credits" in late.text, "four were charged already"
    assert late.kind is LineKind.STATE
    assert (explained.charged, explained.refunded) == (4, 2)
    assert ledger.balance(user) == (8, 0, 0)
    bought = uuid.uuid4()
    with (
        connect(ledger.database.api_url) as conn,
        scoped(conn, "jewelshot_user", user_claims(user)),
    ):
        for _ in range(2):
            conn.execute("select app.buy_late_image(%s, %s)", (bought, generation))
    assert ledger.balance(user) == (6, 0, 0)


async def test_somebody_elses_generation_is_not_there(
    ledger: Ledger, explain: Explain, database: TestDatabase
) -> None:
    user, other = ledger.user(5), ledger.user()
    generation = ledger.start(user, ledger.upload(user))
    for asker, asked in ((other, generation), (user, uuid.uuid4())):
        with pytest.raises(NotFoundError) as caught:
            await explain(asker, asked)
        assert caught.value.fields == {"kind": "generation"}
    assert database.drift() == []
