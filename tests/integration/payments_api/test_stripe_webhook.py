"""Stripe's webhook: what is taken, what is refused, and that nothing is said that is not stored."""

import asyncio
import json
import uuid
from typing import Any

import pytest
from pydantic import SecretStr

from api.routes.webhooks.fal import BODY_BYTES_MAX
from tests.integration.payments_api.till import (
    WEBHOOK_PATH,
    Shopper,
    Till,
    new_event,
    signature,
)

COMPLETED = "checkout.session.completed"


def _stored(till: Till, event: dict[str, Any]) -> list[dict[str, Any]]:
    return till.database.rows("select * from app.stripe_events where id = %s", (event["id"],))


def _tasks(till: Till, event: dict[str, Any]) -> list[dict[str, Any]]:
    return till.database.rows(
        "select queue, args from app.outbox where job = 'stripe_event.handle' and dedupe_key = %s",
        (event["id"],),
    )


async def _completed(till: Till, ada: Shopper) -> dict[str, Any]:
    order = await ada.checkout()
    await till.pay(order["id"])
    (event,) = await till.events_of(order["id"], COMPLETED)
    return event


async def test_an_event_is_stored_with_its_task_and_grants_once(till: Till, ada: Shopper) -> None:
    event = await _completed(till, ada)
    answer = await till.deliver(event)
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    (row,) = _stored(till, event)
    assert row["payload"] == event
    assert (row["type"], row["source"], row["handled_at"]) == (COMPLETED, "webhook", None)
    (task,) = _tasks(till, event)
    assert task["queue"] == "interactive"
    assert till.balance(ada) == (0, 0, 0)  # nothing is done before the answer
    await till.shop.run_tasks()
    assert till.balance(ada) == (50, 0, 0)
    assert _stored(till, event)[0]["outcome"] == "paid"
    for _ in range(2):
        assert (await till.deliver(event)).status_code == 200
    await till.shop.run_tasks()
    assert len(_stored(till, event)) == 1
    assert till.balance(ada) == (50, 0, 0)


async def test_copies_at_once_are_one_event(till: Till, ada: Shopper) -> None:
    event = await _completed(till, ada)
    answers = await asyncio.gather(*(till.deliver(event) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert (len(_stored(till, event)), len(_tasks(till, event))) == (1, 1)
    await till.shop.run_tasks()
    assert till.balance(ada) == (50, 0, 0)


async def test_deliveries_are_not_counted(till: Till) -> None:
    async with till.other_api(rate_limits_enabled=True, rate_limit_ip="1/hour") as client:
        answers = [await till.deliver(new_event(), client=client) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3


async def test_types_that_we_do_not_know_are_taken_and_ignored(till: Till) -> None:
    event = new_event("customer.tax_id.created")
    assert (await till.deliver(event)).status_code == 200
    assert _stored(till, event) == []


async def test_an_event_of_nobody_is_taken_and_set_aside(till: Till) -> None:
    session = {"id": f"cs_test_{uuid.uuid4().hex}", "object": "checkout.session"}
    event = new_event(COMPLETED, data={"object": session})
    assert (await till.deliver(event)).status_code == 200
    await till.shop.run_tasks()
    assert _stored(till, event)[0]["outcome"].startswith("ignored")


def _event(**changes: Any) -> bytes:
    return json.dumps(new_event(COMPLETED, **changes)).encode()


@pytest.mark.parametrize(
    ("body", "header", "reason"),
    [
        (_event(), "", "webhook_signature"),
        (_event(), "t=1,v1=00", "webhook_signature"),
        (_event(), signature(b"{}"), "webhook_signature"),
        (_event(), signature(b"", "whsec_other"), "webhook_signature"),
        (b"\xff\xfe", None, "webhook_signature"),
        (b"not json", None, "not an event of Stripe"),
        (b"[]", None, "not an event of Stripe"),
        (b'{"object": "event"}', None, "not an event of Stripe"),
        (_event(object="v2.event"), None, "not an event of Stripe"),
        (_event(livemode=True), None, "an event of the other mode"),
    ],
    ids=[
        "empty",
        "no_time",
        "other_body",
        "other_secret",
        "bytes",
        "text",
        "list",
        "no_event",
        "thin_event",
        "live",
    ],
)
async def test_what_is_not_for_us_is_refused(
    body: bytes, header: str | None, reason: str, till: Till
) -> None:
    before = till.database.row("select count(*) from app.stripe_events")
    answer = await till.deliver(body, header=signature(body) if header is None else header)
    assert answer.status_code == 400
    problem = answer.json()
    assert problem["type"].endswith("/webhook-refused")
    assert problem["reason"] == reason
    assert till.database.row("select count(*) from app.stripe_events") == before


async def test_an_old_signature_is_refused(till: Till) -> None:
    body = _event()
    old = await till.deliver(body, header=signature(body, age_seconds=301))
    recent = await till.deliver(body, header=signature(body, age_seconds=240))
    assert (old.status_code, recent.status_code) == (400, 200)


async def test_the_bytes_are_verified_and_not_what_they_mean(till: Till) -> None:
    event = new_event(COMPLETED)
    header = signature(json.dumps(event).encode())
    spaced = json.dumps(event, indent=1).encode()
    assert (await till.deliver(spaced, header=header)).status_code == 400


async def test_a_live_server_takes_no_test_events(till: Till) -> None:
    live = {"stripe_secret_key": SecretStr("rk_live_x"), "stripe_api_url": None}
    async with till.other_api(**live) as client:
        test = await till.deliver(new_event(COMPLETED), client=client)
        real = await till.deliver(new_event("ping", livemode=True), client=client)
    assert (test.status_code, real.status_code) == (400, 200)


async def test_secrets_are_rotated_with_two_at_once(till: Till) -> None:
    old, new = SecretStr("whsec_old"), SecretStr("whsec_new")
    async with till.other_api(stripe_webhook_secrets=(new, old)) as client:
        for secret, status in ((old, 200), (new, 200), ("whsec_shop", 400)):
            event = new_event(COMPLETED)
            answer = await till.deliver(event, client=client, secret=secret)
            assert answer.status_code == status
        # While Stripe rolls a secret it signs with both, the older one may come first.
        body = _event()
        both = signature(body, "whsec_gone") + "," + signature(body, new).partition(",")[2]
        assert (await till.deliver(body, client=client, header=both)).status_code == 200
    async with till.other_api(stripe_webhook_secrets=(new,)) as client:
        answer = await till.deliver(new_event(COMPLETED), client=client, secret=old)
        assert answer.status_code == 400


async def test_without_a_secret_nothing_is_taken(till: Till) -> None:
    async with till.other_api(stripe_webhook_secrets=()) as client:
        for secret in ("", "whsec_shop"):
            answer = await till.deliver(new_event(COMPLETED), client=client, secret=secret)
            assert answer.status_code == 503
            assert answer.json()["type"].endswith("/not-set-up")


async def test_size_is_limited_before_anything_is_read(till: Till) -> None:
    padding = "x" * (BODY_BYTES_MAX - 1000)
    fits = json.dumps(new_event(COMPLETED, padding=padding)).encode()
    assert (await till.deliver(fits)).status_code == 200
    large = json.dumps(new_event(COMPLETED, padding=padding + "x" * 2000)).encode()
    answer = await till.deliver(large)
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


async def test_what_cannot_be_stored_is_not_taken(till: Till) -> None:
    """A 2xx would be the last that we hear of it."""
    event = new_event(COMPLETED)
    till.database.rows(
        "revoke execute on function app.receive_stripe_event(text, text, text, double precision,"
        " jsonb, text) from jewelshot_api"
    )
    try:
        refused = await till.deliver(event)
    finally:
        till.database.rows(
            "grant execute on function app.receive_stripe_event(text, text, text, double"
            " precision, jsonb, text) to jewelshot_api"
        )
    assert refused.status_code == 500
    assert (await till.deliver(event)).status_code == 200
    assert len(_stored(till, event)) == 1
    odd = new_event(COMPLETED, data={"object": {"id": "cs_test_\x00"}})
    assert (await till.deliver(odd)).status_code == 400


async def test_it_is_posted_and_nothing_else(till: Till) -> None:
    assert (await till.client.get(WEBHOOK_PATH)).status_code == 405
