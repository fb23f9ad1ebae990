"""Packs, checkout, the landing page, retry, the history, invoices and the portal."""

import asyncio
import uuid
from typing import Any

import httpx
import pytest

from tests.harness.payments_api import STRIPE_ORIGIN, Buyer, PaymentsApiHarness


async def test_packs_are_public_and_need_no_key(payments_api: PaymentsApiHarness) -> None:
    async with payments_api.other_api(stripe_secret_key=None) as client:
        packs = (await client.get("/v1/packs")).json()["items"]
    assert [pack["slug"] for pack in packs] == [
        "credits_10",
        "credits_50",
        "credits_100",
        "credits_500",
    ]
    assert packs[1] == {
        "slug": "credits_50",
        "title": "50 credits",
        "credits": 50,
        "unit_amount": 1990,
        "currency": "eur",
        "price_per_credit": "39.80",
    }


async def test_from_the_first_click_to_the_credits(
    payments_api: PaymentsApiHarness, ada: Buyer
) -> None:
    answer = await ada.post("/v1/checkout", {"pack": "credits_50"})
    assert answer.status_code == 201
    order = answer.json()
    assert answer.headers["location"] == f"/v1/checkout/{order['id']}"
    assert order["state"] == "open"
    assert order["checkout_url"].startswith("http://stripe.test/c/pay/")
    assert (order["credits"], order["unit_amount"], order["currency"]) == (50, 1990, "eur")
    await payments_api.pay(order["id"])
    first = await ada.get(f"/v1/checkout/{order['id']}")
    assert first.json()["state"] == "open"  # the route itself asks nobody
    assert first.headers["retry-after"] == "2"
    await payments_api.payments.run_tasks()
    landed = await ada.get(f"/v1/checkout/{order['id']}", prefer="wait=20")
    assert landed.headers["preference-applied"] == "wait=20"
    assert "retry-after" not in landed.headers
    paid = landed.json()
    assert (paid["state"], paid["amount_total"], paid["checkout_url"]) == ("paid", 1990, None)
    assert paid["paid_at"] is not None
    assert payments_api.balance(ada) == (50, 0, 0)


async def test_the_landing_page_waits_and_never_asks_stripe(
    payments_api: PaymentsApiHarness, ada: Buyer
) -> None:
    order = await ada.checkout()
    await payments_api.pay(order["id"])
    asked = len(payments_api.router.sent)
    landing = asyncio.create_task(ada.get(f"/v1/checkout/{order['id']}", prefer="wait=20"))
    async with asyncio.timeout(5):
        while not landing.done():
            await payments_api.payments.run_tasks()
            await asyncio.sleep(0.01)
        assert (await landing).json()["state"] == "paid"
    assert len(payments_api.router.sent) == asked  # the worker has a wire of its own


async def test_a_slow_method_is_pending_and_no_failure(
    payments_api: PaymentsApiHarness, ada: Buyer
) -> None:
    order = await ada.checkout()
    await payments_api.pay(order["id"], slow=True)
    pending = await payments_api.read_after_sync(ada, order["id"])
    assert pending["state"] == "processing"
    assert "Pending" in pending["state_in_words"]
    assert payments_api.balance(ada) == (0, 0, 0)


async def test_an_open_order_for_the_same_pack_is_reused(ada: Buyer) -> None:
    first = await ada.post("/v1/checkout", {"pack": "credits_50"})
    again = await ada.post("/v1/checkout", {"pack": "credits_50"})
    other = await ada.post("/v1/checkout", {"pack": "credits_10"})
    assert [answer.status_code for answer in (first, again, other)] == [201, 200, 201]
    assert again.json() == first.json()
    assert other.json()["id"] != first.json()["id"]


async def _at_once(buyer: Buyer, *, key: str | None, count: int = 10) -> list[httpx.Response]:
    body = {"pack": "credits_50"}
    return await asyncio.gather(*(buyer.post("/v1/checkout", body, key=key) for _ in range(count)))


@pytest.mark.parametrize("key", [None, "one"])
async def test_ten_clients_at_once_buy_once(
    key: str | None, payments_api: PaymentsApiHarness, ada: Buyer
) -> None:
    made = payments_api.database.row("select count(*) from app.order_sessions")["count"]
    answers = await _at_once(ada, key=key)
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= ({200, 201} if key is None else {201, 409})
    assert 201 in statuses
    if key is None:
        assert statuses.count(201) == 1
    bodies = [answer.json() for answer in answers if answer.status_code != 409]
    assert len({(body["id"], body["checkout_url"]) for body in bodies}) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert answer.headers["retry-after"] == "1"
    assert payments_api.database.row("select count(*) from app.order_sessions")["count"] == made + 1
    orders = payments_api.database.rows("select id from app.orders where user_id = %s", (ada.id,))
    assert [str(row["id"]) for row in orders] == [bodies[0]["id"]]


async def test_a_key_goes_on_where_the_first_request_stopped(
    payments_api: PaymentsApiHarness, ada: Buyer
) -> None:
    """Stripe is away: the order is there, and the same request opens its page later."""
    payments_api.router.refuse_paths(STRIPE_ORIGIN, "/v1/checkout/sessions", status=401, times=1)
    away = await ada.post("/v1/checkout", {"pack": "credits_50"}, key="k")
    assert away.status_code == 503
    assert away.headers["retry-after"] == "5"
    (known,) = (await ada.read("/v1/payments"))["items"]
    assert known["state"] == "created"
    again = await ada.post("/v1/checkout", {"pack": "credits_50"}, key="k")
    assert (again.status_code, again.json()["id"]) == (201, known["id"])
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["checkout_url"] is not None
    await payments_api.pay(known["id"])
    await payments_api.read_after_sync(ada, known["id"])
    late = await ada.post("/v1/checkout", {"pack": "credits_50"}, key="k")
    assert (late.status_code, late.json()["state"]) == (201, "paid")
    other = await ada.post("/v1/checkout", {"pack": "credits_10"}, key="k")
    assert other.status_code == 422
    assert other.json()["type"].endswith("/idempotency-mismatch")


async def test_who_has_no_account_yet_gets_one_and_who_is_unverified_does_not(
    payments_api: PaymentsApiHarness,
) -> None:
    nobody = uuid.uuid4()
    payments_api.database.sign_in(nobody)
    payments_api.database.rows(
        "update auth.users set email_confirmed_at = null where id = %s", (nobody,)
    )
    stranger = Buyer(payments_api.client, nobody, payments_api.issuer.token(nobody))
    answer = await stranger.post("/v1/checkout", {"pack": "credits_10"})
    assert answer.status_code == 403
    missing = await payments_api.buyer().post("/v1/checkout", {"pack": "credits_11"})
    assert (missing.status_code, missing.json()["kind"]) == (404, "pack")


async def test_without_a_key_nothing_is_for_sale(payments_api: PaymentsApiHarness) -> None:
    ada = payments_api.buyer()
    order = await payments_api.bought(ada)
    async with payments_api.other_api(stripe_secret_key=None) as client:
        ada.client = client
        for path, body in (
            ("/v1/checkout", {"pack": "credits_10"}),
            (f"/v1/payments/{order['id']}/retry", None),
            ("/v1/portal", None),
            ("/v1/refunds", {"order_id": order["id"]}),
        ):
            answer = await ada.post(path, body)
            assert answer.status_code == 503, path
            assert answer.json()["type"].endswith("/not-set-up")
            assert answer.json()["what"] == "payments"
        assert (await ada.read(f"/v1/checkout/{order['id']}"))["state"] == "paid"


async def test_creating_is_limited_for_a_person_and_for_a_network(
    payments_api: PaymentsApiHarness,
) -> None:
    async with payments_api.other_api(rate_limits_enabled=True) as client:
        ada = payments_api.buyer(client)
        statuses = [
            (await ada.post("/v1/checkout", {"pack": "credits_10"})).status_code for _ in range(21)
        ]
        assert statuses == [201, *[200] * 19, 429]
        people = [payments_api.buyer(client) for _ in range(3)]
        more = [
            (await people[number % 3].post("/v1/checkout", {"pack": "nothing"}))
            for number in range(45)
        ]
    codes = [answer.status_code for answer in more]
    first = codes.index(429)
    assert codes[:first] == [404] * first
    assert 40 <= first < 45, "each minute that this takes gives one back"
    assert more[first].json()["policy"] == "checkout-ip"
    assert int(more[first].headers["retry-after"]) > 30


async def test_an_expired_payment_is_tried_again_on_the_same_order(
    payments_api: PaymentsApiHarness, ada: Buyer
) -> None:
    order = await ada.checkout()
    early = await ada.post(f"/v1/payments/{order['id']}/retry")
    assert early.json() == order  # its page is still open
    await payments_api.expire(order["id"])
    expired = await payments_api.read_after_sync(ada, order["id"])
    assert (expired["state"], expired["checkout_url"]) == ("expired", None)
    again = await ada.post(f"/v1/payments/{order['id']}/retry")
    assert again.status_code == 200
    assert again.headers["location"] == f"/v1/checkout/{order['id']}"
    assert again.json()["state"] == "open"
    assert again.json()["checkout_url"] not in {None, order["checkout_url"]}
    await payments_api.pay(order["id"])
    await payments_api.read_after_sync(ada, order["id"])
    assert payments_api.balance(ada) == (50, 0, 0)
    late = await ada.post(f"/v1/payments/{order['id']}/retry")
    assert (late.status_code, late.json()["state"]) == (409, "paid")


async def test_the_history_is_paged_and_filtered(
    payments_api: PaymentsApiHarness, ada: Buyer
) -> None:
    first = await payments_api.bought(ada, "credits_10")
    second = await ada.checkout("credits_50")
    third = await ada.checkout("credits_100")
    page = await ada.read("/v1/payments", limit=2)
    assert [item["id"] for item in page["items"]] == [third["id"], second["id"]]
    rest = await ada.read("/v1/payments", limit=2, cursor=page["next_cursor"])
    assert [item["id"] for item in rest["items"]] == [first["id"]]
    assert rest["next_cursor"] is None
    paid = await ada.read("/v1/payments", state=["paid", "refunded"])
    assert [item["id"] for item in paid["items"]] == [first["id"]]
    assert (await ada.get("/v1/payments", state="rich")).status_code == 400
    assert (await ada.get("/v1/payments", cursor="x")).status_code == 422


async def test_invoices_are_links(payments_api: PaymentsApiHarness, ada: Buyer) -> None:
    await ada.checkout("credits_100")
    paid = await payments_api.bought(ada)
    (invoice,) = (await ada.read("/v1/invoices"))["items"]
    assert invoice["payment_id"] == paid["id"]
    assert invoice["invoice_url"].startswith("http://stripe.test/i/")
    assert invoice["invoice_pdf_url"]
    assert invoice["receipt_url"] == paid["receipt_url"]
    assert paid["receipt_url"] is not None


async def test_the_portal_is_for_whoever_has_bought(
    payments_api: PaymentsApiHarness, ada: Buyer
) -> None:
    assert (await ada.post("/v1/portal")).status_code == 404
    await ada.checkout()
    answer = await ada.post("/v1/portal", key="k")
    assert answer.status_code == 201
    url = answer.json()["url"]
    assert url.startswith("http://stripe.test/")
    again = await ada.post("/v1/portal", key="k")
    assert (again.status_code, again.json()["url"]) == (201, url)
    assert again.headers["idempotency-replayed"] == "true"
    assert payments_api.database.tables_with(url.rpartition("/")[2]) == []
    assert (await ada.post("/v1/portal", key="other")).json()["url"] != url
    payments_api.router.refuse_paths(STRIPE_ORIGIN, "/v1/billing_portal", status=401, times=1)
    assert (await ada.post("/v1/portal")).status_code == 503


SECRET_PREFIXES = ("cs_", "pi_", "cus_", "price_", "ch_", "re_", "whsec_", "sk_", "prod_")
# Stripe's own pages are for the buyer; their URLs are the one place with an id of Stripe in them.
STRIPE_PAGES = {"checkout_url", "invoice_url", "invoice_pdf_url", "receipt_url"}


def _words(value: Any, name: str = "") -> list[str]:
    if isinstance(value, dict):
        return [word for key, found in value.items() for word in _words(found, key)]
    if isinstance(value, list):
        return [word for found in value for word in _words(found, name)]
    return [] if name in STRIPE_PAGES else [str(value)]


async def test_no_route_names_stripes_objects(payments_api: PaymentsApiHarness, ada: Buyer) -> None:
    open_order = await ada.checkout("credits_100")
    paid = await payments_api.bought(ada)
    refund = await ada.post("/v1/refunds", {"order_id": paid["id"], "credits": 10})
    await payments_api.payments.run_tasks()
    answers = [
        open_order,
        refund.json(),
        *[
            await ada.read(path)
            for path in (
                "/v1/packs",
                "/v1/payments",
                "/v1/invoices",
                "/v1/refunds",
                f"/v1/payments/{paid['id']}",
                f"/v1/checkout/{open_order['id']}",
                f"/v1/refunds/{refund.json()['id']}",
                "/v1/credits/ledger",
            )
        ],
    ]
    words = [word for answer in answers for word in _words(answer)]
    assert paid["id"] in words
    assert [word for word in words if word.startswith(SECRET_PREFIXES)] == []


async def test_what_belongs_to_another_is_not_found(
    payments_api: PaymentsApiHarness, ada: Buyer
) -> None:
    paid = await payments_api.bought(ada)
    refund = (await ada.post("/v1/refunds", {"order_id": paid["id"], "credits": 10})).json()
    eve = payments_api.buyer()
    session_id = payments_api.session_of(paid["id"])
    balance = payments_api.balance(ada)
    for method, path, body in (
        ("GET", f"/v1/checkout/{paid['id']}", None),
        ("GET", f"/v1/payments/{paid['id']}", None),
        ("POST", f"/v1/payments/{paid['id']}/retry", None),
        ("POST", "/v1/refunds", {"order_id": paid["id"]}),
        ("GET", f"/v1/refunds/{refund['id']}", None),
        ("GET", f"/v1/checkout/{session_id}", None),
        ("GET", f"/v1/payments/{session_id}", None),
    ):
        answer = await eve.client.request(method, path, json=body, headers=eve.headers)
        assert answer.status_code == 404, (method, path)
        nobody = await eve.client.request(method, path, json=body)
        assert nobody.status_code == (404 if session_id in path else 401)
    for path in ("/v1/payments", "/v1/invoices", "/v1/refunds"):
        assert (await eve.read(path))["items"] == []
    assert (await eve.read("/v1/refunds", order_id=paid["id"]))["items"] == []
    assert payments_api.balance(ada) == balance
    assert (await eve.post("/v1/portal")).status_code == 404


async def test_who_signed_out_or_was_banned_buys_and_returns_nothing(
    payments_api: PaymentsApiHarness, ada: Buyer
) -> None:
    paid = await payments_api.bought(ada)
    posts: list[tuple[str, dict[str, Any] | None]] = [
        ("/v1/checkout", {"pack": "credits_50"}),
        ("/v1/refunds", {"order_id": paid["id"]}),
        ("/v1/portal", None),
    ]
    left = {
        "update auth.users set banned_until = now() + interval '1 day' where id = %s": (
            403,
            "user_banned",
        ),
        "delete from auth.sessions where user_id = %s": (401, "session_not_found"),
    }
    for statement, expected in left.items():
        payments_api.database.rows(statement, (ada.id,))
        for path, body in posts:
            answer = await ada.post(path, body)
            assert (answer.status_code, answer.json()["reason"]) == expected, path
    assert payments_api.balance(ada) == (50, 0, 0)
    orders = "select from app.orders where user_id = %s"
    assert len(payments_api.database.rows(orders, (ada.id,))) == 1
