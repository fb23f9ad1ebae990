"""Stripe's webhook: what is taken, what is refused, and that nothing is said that is not stored."""

import asyncio
import json
import time
import uuid
from typing import Any

import pytest
from pydantic import SecretStr

from api.routes.webhooks.fal import BODY_BYTES_MAX
from tests.harness.payments_api import (
    WEBHOOK_PATH,
    Buyer,
    PaymentsApiHarness,
    new_event,
    signature,
)

COMPLETED = "checkout.session.completed"


def _stored(payments_api: PaymentsApiHarness, event: dict[str, Any]) -> list[dict[str, Any]]:
    return payments_api.database.rows(
        "select * from app.stripe_events where id = %s", (event["id"],)
    )


def _tasks(payments_api: PaymentsApiHarness, event: dict[str, Any]) -> list[dict[str, Any]]:
    return payments_api.database.rows(
        "select args from app.outbox where job = 'stripe_event.handle' and dedupe_key = %s",
        (event["id"],),
    )


async def _completed(payments_api: PaymentsApiHarness, ada: Buyer) -> dict[str, Any]:
    order = await ada.checkout()
    await payments_api.pay(order["id"])
    (event,) = await payments_api.events_of(order["id"], COMPLETED)
    return event


async def test_an_event_is_stored_with_its_task_and_grants_once(
    payments_api: PaymentsApiHarness, ada: Buyer
) -> None:
    event = await _completed(payments_api, ada)
    answer = await payments_api.deliver(event)
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    (row,) = _stored(payments_api, event)
    assert row["payload"] == event
    assert (row["type"], row["source"], row["handled_at"]) == (COMPLETED, "webhook", None)
    assert len(_tasks(payments_api, event)) == 1
    assert payments_api.balance(ada) == (0, 0, 0)  # nothing is done before the answer
    await payments_api.payments.run_tasks()
    assert payments_api.balance(ada) == (50, 0, 0)
    assert _stored(payments_api, event)[0]["outcome"] == "paid"
    for _ in range(2):
        assert (await payments_api.deliver(event)).status_code == 200
    await payments_api.payments.run_tasks()
    assert len(_stored(payments_api, event)) == 1
    assert payments_api.balance(ada) == (50, 0, 0)


async def test_copies_at_once_are_one_event(payments_api: PaymentsApiHarness, ada: Buyer) -> None:
    event = await _completed(payments_api, ada)
    answers = await asyncio.gather(*(payments_api.deliver(event) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert (len(_stored(payments_api, event)), len(_tasks(payments_api, event))) == (1, 1)
    await payments_api.payments.run_tasks()
    assert payments_api.balance(ada) == (50, 0, 0)


async def test_deliveries_are_not_counted(payments_api: PaymentsApiHarness) -> None:
    async with payments_api.other_api(rate_limits_enabled=True, rate_limit_ip="1/hour") as client:
        answers = [await payments_api.deliver(new_event(), client=client) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3


async def test_types_that_we_do_not_know_are_taken_and_ignored(
    payments_api: PaymentsApiHarness,
) -> None:
    event = new_event("customer.tax_id.created")
    assert (await payments_api.deliver(event)).status_code == 200
    assert _stored(payments_api, event) == []


async def test_an_event_of_nobody_is_taken_and_set_aside(payments_api: PaymentsApiHarness) -> None:
    session = {"id": f"cs_test_{uuid.uuid4().hex}", "object": "checkout.session"}
    event = new_event(COMPLETED, data={"object": session})
    assert (await payments_api.deliver(event)).status_code == 200
    await payments_api.payments.run_tasks()
    assert _stored(payments_api, event)[0]["outcome"].startswith("ignored")


def _nested(levels: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(levels):
        inner = {"a": inner}
    return inner


def _event(**changes: Any) -> bytes:
    return json.dumps(new_event(COMPLETED, **changes)).encode()


@pytest.mark.parametrize(
    ("body", "header", "reason"),
    [
        (_event(), "", "webhook_signature"),
        (_event(), "t=1,v1=00", "webhook_signature"),
        (_event(), signature(b"{}"), "webhook_signature"),
        (_event(), signature(b"", "whsec_other"), "webhook_signature"),
        (_event(), "t=1,v1=\u0661", "webhook_signature"),
        (_event(), "t=\u0661\u0662,v1=00", "webhook_signature"),
        (_event(), f"t={int(time.time())},v1=\u0661", "webhook_signature"),
        (_event(), f"t={int(time.time())},t=1,v1=00", "webhook_signature"),
        (_event(), "t=1e9,v1=00", "webhook_signature"),
        (b"\xff\xfe", None, "webhook_not_an_event"),
        (b"[" * 2_000, None, "webhook_not_an_event"),
        (b'{"a":' * 2_000, None, "webhook_not_an_event"),
        (_event(data={"object": _nested(100)}), None, "webhook_not_an_event"),
        (b"not json", None, "webhook_not_an_event"),
        (b"[]", None, "webhook_not_an_event"),
        (b'{"object": "event"}', None, "webhook_not_an_event"),
        (_event(object="v2.event"), None, "webhook_not_an_event"),
        (_event(livemode=True), None, "webhook_other_mode"),
    ],
    ids=[
        "empty",
        "no_time",
        "other_body",
        "other_secret",
        "other_digits",
        "time_in_other_digits",
        "recent_and_other_digits",
        "two_times",
        "no_decimal",
        "bytes",
        "deep_lists",
        "deep_objects",
        "deep_and_whole",
        "text",
        "list",
        "no_event",
        "thin_event",
        "live",
    ],
)
async def test_what_is_not_for_us_is_refused(
    body: bytes, header: str | None, reason: str, payments_api: PaymentsApiHarness
) -> None:
    before = payments_api.database.row("select count(*) from app.stripe_events")
    answer = await payments_api.deliver(body, header=signature(body) if header is None else header)
    assert answer.status_code == 400
    problem = answer.json()
    assert problem["type"].endswith("/webhook-refused")
    assert problem["reason"] == reason
    assert payments_api.database.row("select count(*) from app.stripe_events") == before


async def test_an_old_signature_is_refused(payments_api: PaymentsApiHarness) -> None:
    body = _event()
    old = await payments_api.deliver(body, header=signature(body, age_seconds=301))
    recent = await payments_api.deliver(body, header=signature(body, age_seconds=240))
    assert (old.status_code, recent.status_code) == (400, 200)


async def test_a_signature_of_the_future_is_refused(payments_api: PaymentsApiHarness) -> None:
    """Else who once got one that is far ahead could use it for ever."""
    body = _event()
    ahead = await payments_api.deliver(body, header=signature(body, age_seconds=-3_600))
    clocks = await payments_api.deliver(body, header=signature(body, age_seconds=-240))
    assert (ahead.status_code, clocks.status_code) == (400, 200)


async def test_forged_webhooks_are_limited_and_genuine_ones_are_not(
    payments_api: PaymentsApiHarness,
) -> None:
    async with payments_api.other_api(
        rate_limits_enabled=True, trusted_proxies=("203.0.113.7",)
    ) as client:
        forger = {"x-forwarded-for": "198.51.100.9", "stripe-signature": "t=1,v1=00"}
        codes = [
            (await client.post("/v1/webhooks/stripe", content=b"{}", headers=forger)).status_code
            for _ in range(65)
        ]
        assert codes == [400] * 60 + [429] * 5
        assert (await payments_api.deliver(new_event(), client=client)).status_code == 200


async def test_the_bytes_are_verified_and_not_what_they_mean(
    payments_api: PaymentsApiHarness,
) -> None:
    event = new_event(COMPLETED)
    header = signature(json.dumps(event).encode())
    spaced = json.dumps(event, indent=1).encode()
    assert (await payments_api.deliver(spaced, header=header)).status_code == 400


async def test_a_live_server_takes_no_test_events(payments_api: PaymentsApiHarness) -> None:
    live = {"stripe_secret_key": SecretStr("rk_live_x"), "stripe_api_url": None}
    async with payments_api.other_api(**live) as client:
        test = await payments_api.deliver(new_event(COMPLETED), client=client)
        real = await payments_api.deliver(new_event("ping", livemode=True), client=client)
    assert (test.status_code, real.status_code) == (400, 200)


async def test_secrets_are_rotated_with_two_at_once(payments_api: PaymentsApiHarness) -> None:
    old, new = SecretStr("whsec_old"), SecretStr("whsec_new")
    async with payments_api.other_api(stripe_webhook_secrets=(new, old)) as client:
        for secret, status in ((old, 200), (new, 200), ("whsec_shop", 400)):
            event = new_event(COMPLETED)
            answer = await payments_api.deliver(event, client=client, secret=secret)
            assert answer.status_code == status
        # While Stripe rolls a secret it signs with both, the older one may come first.
        body = _event()
        both = signature(body, "whsec_gone") + "," + signature(body, new).partition(",")[2]
        assert (await payments_api.deliver(body, client=client, header=both)).status_code == 200
    async with payments_api.other_api(stripe_webhook_secrets=(new,)) as client:
        answer = await payments_api.deliver(new_event(COMPLETED), client=client, secret=old)
        assert answer.status_code == 400


async def test_without_a_secret_nothing_is_taken(payments_api: PaymentsApiHarness) -> None:
    async with payments_api.other_api(stripe_webhook_secrets=()) as client:
        for secret in ("", "whsec_shop"):
            answer = await payments_api.deliver(new_event(COMPLETED), client=client, secret=secret)
            assert answer.status_code == 503
            assert answer.json()["type"].endswith("/not-set-up")


async def test_size_is_limited_before_anything_is_read(payments_api: PaymentsApiHarness) -> None:
    padding = "x" * (BODY_BYTES_MAX - 1000)
    fits = json.dumps(new_event(COMPLETED, padding=padding)).encode()
    assert (await payments_api.deliver(fits)).status_code == 200
    large = json.dumps(new_event(COMPLETED, padding=padding + "x" * 2000)).encode()
    answer = await payments_api.deliver(large)
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


async def test_what_cannot_be_stored_is_not_taken(payments_api: PaymentsApiHarness) -> None:
    """A 2xx would be the last that we hear of it."""
    event = new_event(COMPLETED)
    payments_api.database.rows(
        "revoke execute on function app.receive_stripe_event(text, text, text, double precision,"
        " jsonb, text) from jewelshot_api"
    )
    try:
        refused = await payments_api.deliver(event)
    finally:
        payments_api.database.rows(
            "grant execute on function app.receive_stripe_event(text, text, text, double"
            " precision, jsonb, text) to jewelshot_api"
        )
    assert refused.status_code == 500
    assert (await payments_api.deliver(event)).status_code == 200
    assert len(_stored(payments_api, event)) == 1
    odd = new_event(COMPLETED, data={"object": {"id": "cs_test_\x00"}})
    assert (await payments_api.deliver(odd)).status_code == 400


async def test_it_is_posted_and_nothing_else(payments_api: PaymentsApiHarness) -> None:
    assert (await payments_api.client.get(WEBHOOK_PATH)).status_code == 405


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
        json.dumps(new_event(COMPLETED, data={"object": {"id": {"no": "text"}}})).encode(),
        json.dumps(new_event(COMPLETED, data={"object": [1]})).encode(),
        json.dumps(new_event(COMPLETED, data=7)).encode(),
        json.dumps(new_event(COMPLETED, id={"an": "object"})).encode(),
        # Well formed, and deeper than anything of Stripe's.
        json.dumps(new_event(COMPLETED)).encode()[:-1]
        + b', "more": '
        + b"[" * 500
        + b"]" * 500
        + b"}",
    ],
)
async def test_what_is_signed_and_odd_is_refused(
    body: bytes, payments_api: PaymentsApiHarness
) -> None:
    answer = await payments_api.deliver(body)
    assert answer.status_code == 400
    assert answer.json()["reason"] == "webhook_not_an_event"


@pytest.mark.parametrize(
    "header",
    ["t=1,v1=\u0661", "t=\u0661,v1=aa", "t=,v1=", "t=1", "v1=aa", "t=9e9,v1=a"],
)
async def test_a_header_that_is_no_signature(header: str, payments_api: PaymentsApiHarness) -> None:
    body = json.dumps(new_event(COMPLETED)).encode()
    answer = await payments_api.client.post(
        "/v1/webhooks/stripe", content=body, headers=[(b"Stripe-Signature", header.encode())]
    )
    assert (answer.status_code, answer.json()["reason"]) == (400, "webhook_signature")


async def test_a_signature_of_a_time_to_come_is_not_taken(payments_api: PaymentsApiHarness) -> None:
    body = json.dumps(new_event(COMPLETED)).encode()
    early = await payments_api.deliver(body, header=signature(body, age_seconds=-3600))
    fast = await payments_api.deliver(body, header=signature(body, age_seconds=-240))
    assert (early.status_code, fast.status_code) == (400, 200)
