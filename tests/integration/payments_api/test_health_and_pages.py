"""What monitoring sees of payments, and the page that Stripe sends people back to."""

import uuid
from typing import Any

import httpx
import pytest

from tests.harness.payments_api import STRIPE_ORIGIN, Buyer, PaymentsApiHarness, new_event

WELL = {
    "disputes_unanswered": 0,
    "events_waiting": 0,
    "fraud_warnings_open": 0,
    "key_refused": False,
    "orders_in_review": 0,
    "returns_waiting": 0,
    "days_differing": 0,
    "webhooks_silent": False,
}


async def _check(client: httpx.AsyncClient) -> tuple[str, dict[str, Any]]:
    answer = await client.get("/readyz")
    assert answer.status_code == 200, answer.text
    check = answer.json()["checks"]["payments"]
    return check["status"], check["facts"]


async def _events_waiting(payments_api: PaymentsApiHarness, _: Buyer) -> None:
    await payments_api.deliver(new_event("checkout.session.completed"))
    payments_api.database.clock.advance(minutes=6)


async def _orders_in_review(payments_api: PaymentsApiHarness, ada: Buyer) -> None:
    order = await ada.checkout()
    session_id = payments_api.session_of(order["id"])
    await payments_api.payments.change("checkout.session", session_id, {"currency": "jpy"})
    await payments_api.pay(order["id"])
    await payments_api.read_after_sync(ada, order["id"])


async def _returns_waiting(payments_api: PaymentsApiHarness, ada: Buyer) -> None:
    paid = await payments_api.bought(ada)
    for event in await payments_api.events_of(paid["id"], "checkout.session.completed"):
        await payments_api.deliver(event)
    await payments_api.payments.run_tasks()
    await ada.post("/v1/refunds", {"order_id": paid["id"]})
    payments_api.database.clock.advance(minutes=16)


async def _days_differing(payments_api: PaymentsApiHarness, _: Buyer) -> None:
    payments_api.database.rows(
        "select app.record_payment_day(current_date - 1, 1, 490, 0, 0, '[{\"ours\": null}]')"
    )


async def _disputes_unanswered(payments_api: PaymentsApiHarness, ada: Buyer) -> None:
    paid = await payments_api.bought(ada)
    await payments_api.payments.dispute(payments_api.payments.find(uuid.UUID(paid["id"])))
    (event,) = await payments_api.payments.events("charge.dispute.created")
    await payments_api.deliver(event)
    await payments_api.payments.run_tasks()


async def _fraud_warnings_open(payments_api: PaymentsApiHarness, ada: Buyer) -> None:
    paid = await payments_api.bought(ada)
    await payments_api.payments.warn_of_fraud(payments_api.payments.find(uuid.UUID(paid["id"])))
    (event,) = await payments_api.payments.events("radar.early_fraud_warning.created")
    await payments_api.deliver(event)
    await payments_api.payments.run_tasks()


async def _key_refused(payments_api: PaymentsApiHarness, ada: Buyer) -> None:
    payments_api.router.refuse_paths(STRIPE_ORIGIN, "/v1/", status=401, times=1)
    assert (await ada.post("/v1/checkout", {"pack": "credits_50"})).status_code == 503


async def _webhooks_silent(payments_api: PaymentsApiHarness, ada: Buyer) -> None:
    await payments_api.bought(ada)
    payments_api.database.clock.advance(minutes=6)


@pytest.mark.parametrize(
    ("fact", "bring_about"),
    [
        ("disputes_unanswered", _disputes_unanswered),
        ("events_waiting", _events_waiting),
        ("fraud_warnings_open", _fraud_warnings_open),
        ("key_refused", _key_refused),
        ("orders_in_review", _orders_in_review),
        ("returns_waiting", _returns_waiting),
        ("days_differing", _days_differing),
        ("webhooks_silent", _webhooks_silent),
    ],
)
async def test_what_lags_or_differs_is_degraded(
    fact: str, bring_about: Any, own_payments_api: PaymentsApiHarness
) -> None:
    assert await _check(own_payments_api.client) == ("ok", WELL)
    await bring_about(own_payments_api, own_payments_api.buyer())
    assert await _check(own_payments_api.client) == ("degraded", WELL | {fact: WELL[fact] + 1})
    text = (await own_payments_api.client.get("/metrics")).text
    assert f"\njewelshot_payments_{fact} 1.0\n" in text


async def test_readiness_is_silent_about_what_is_not_set_up(
    payments_api: PaymentsApiHarness,
) -> None:
    async with payments_api.other_api(stripe_secret_key=None) as client:
        assert "payments" not in (await client.get("/readyz")).json()["checks"]


async def test_sales_are_figures(payments_api: PaymentsApiHarness, ada: Buyer) -> None:
    await ada.checkout("credits_10")
    await payments_api.bought(ada, "credits_100")
    lines = (await payments_api.client.get("/metrics")).text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values['jewelshot_orders_open{state="open"}']) >= 1
    assert float(values["jewelshot_credits_sold_last_day"]) >= 100
    assert float(values["jewelshot_orders_paid_last_day"]) >= 1


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?order=0192f3a1-b2c3-7d4e-8f90-a1b2c3d4e5f6", "Your payment is on its way"),
        ("?order=0192f3a1-b2c3-7d4e-8f90-a1b2c3d4e5f6&cancelled=true", "nothing was charged"),
        ("", "You can close this page"),
        ("?order=%3Cscript%3Ealert(1)%3C/script%3E&cancelled=%3Cb%3E", "on its way"),
    ],
)
async def test_the_return_page_says_what_happens_next(
    query: str, words: str, payments_api: PaymentsApiHarness
) -> None:
    page = await payments_api.client.get(f"/checkout/return{query}")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "script" not in page.headers["content-security-policy"]
    assert words in page.text
    assert "<script" not in page.text
    assert "0192f3a1" not in page.text


async def test_the_return_page_leads_back_to_the_shop(payments_api: PaymentsApiHarness) -> None:
    async with payments_api.other_api(site_url="https://payments.example/?a=1&b=2") as client:
        page = await client.get("/checkout/return?order=x")
    assert 'href="https://payments.example/?a=1&amp;b=2"' in page.text
