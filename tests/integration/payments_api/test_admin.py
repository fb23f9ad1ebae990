"""Admins: the log of Stripe's events, replays, orders in review."""

from datetime import UTC, datetime, timedelta

from tests.harness.payments_api import Buyer, Json, PaymentsApiHarness

COMPLETED = "checkout.session.completed"


async def _handled(payments_api: PaymentsApiHarness, ada: Buyer) -> tuple[Json, Json]:
    """A paid order and the event about it."""
    order = await ada.checkout()
    await payments_api.pay(order["id"])
    (event,) = await payments_api.events_of(order["id"], COMPLETED)
    await payments_api.deliver(event)
    await payments_api.payments.run_tasks()
    return order, event


def _audit(payments_api: PaymentsApiHarness) -> list[Json]:
    return payments_api.database.rows(
        "select actor, detail from app.audit_log join app.audit_details on audit_id = id"
        " where action = 'stripe_events.replay' order by id"
    )


async def test_only_admins_see_the_log(payments_api: PaymentsApiHarness, ada: Buyer) -> None:
    _, event = await _handled(payments_api, ada)
    for method, path, body in (
        ("GET", "/v1/admin/webhooks", None),
        ("GET", f"/v1/admin/webhooks/{event['id']}", None),
        ("POST", f"/v1/admin/webhooks/{event['id']}/replay", None),
        ("POST", "/v1/admin/webhooks/replay", {"types": [COMPLETED]}),
        ("GET", "/v1/admin/orders", None),
    ):
        answer = await payments_api.client.request(method, path, json=body, headers=ada.headers)
        assert answer.status_code == 403, path
        assert (await payments_api.client.request(method, path, json=body)).status_code == 401
    one_factor = payments_api.issuer.headers(app_metadata={"role": "admin"}, aal="aal1")
    answer = await payments_api.client.get("/v1/admin/webhooks", headers=one_factor)
    assert answer.json()["reason"] == "mfa_required"


async def test_the_log_is_paged_and_filtered(payments_api: PaymentsApiHarness, ada: Buyer) -> None:
    admin = payments_api.admin()
    order, event = await _handled(payments_api, ada)
    other, _ = await _handled(payments_api, payments_api.buyer())
    (shown,) = (await admin.read("/v1/admin/webhooks", order_id=order["id"]))["items"]
    assert (shown["id"], shown["type"], shown["outcome"]) == (event["id"], COMPLETED, "paid")
    assert "payload" not in shown
    page = await admin.read("/v1/admin/webhooks", type=COMPLETED, limit=1)
    assert page["items"][0]["order_id"] == other["id"]
    rest = await admin.read(
        "/v1/admin/webhooks", type=[COMPLETED, "x"], limit=1, cursor=page["next_cursor"]
    )
    assert rest["items"][0]["id"] == event["id"]
    assert (await admin.read("/v1/admin/webhooks", type="radar.x"))["items"] == []
    waiting = {"waiting_only": "true", "order_id": order["id"]}
    assert (await admin.read("/v1/admin/webhooks", **waiting))["items"] == []
    detail = await admin.read(f"/v1/admin/webhooks/{event['id']}")
    assert detail["payload"] == event
    assert (await admin.get("/v1/admin/webhooks/evt_none")).status_code == 404
    assert (await admin.get("/v1/admin/webhooks", cursor="x")).status_code == 422


async def test_one_event_is_handled_again_and_grants_nothing(
    payments_api: PaymentsApiHarness, ada: Buyer
) -> None:
    admin = payments_api.admin()
    order, event = await _handled(payments_api, ada)
    before = len(_audit(payments_api))
    answer = await admin.post(f"/v1/admin/webhooks/{event['id']}/replay")
    assert answer.status_code == 202
    assert (answer.json()["handled_at"], answer.json()["replays"]) == (None, 1)
    waiting = {"waiting_only": "true", "order_id": order["id"]}
    assert len((await admin.read("/v1/admin/webhooks", **waiting))["items"]) == 1
    assert await payments_api.payments.run_tasks() == ["done"]
    shown = await admin.read(f"/v1/admin/webhooks/{event['id']}")
    assert (shown["outcome"], shown["replays"]) == ("paid", 1)
    assert payments_api.balance(ada) == (50, 0, 0)
    (line,) = _audit(payments_api)[before:]
    assert line["actor"] == str(admin.id)
    assert line["detail"]["ids"] == [event["id"]]
    missing = await admin.post("/v1/admin/webhooks/evt_none/replay")
    assert (missing.status_code, missing.json()["kind"]) == (404, "stripe_event")
    assert len(_audit(payments_api)) == before + 1


async def test_a_range_is_handled_again(payments_api: PaymentsApiHarness) -> None:
    admin = payments_api.admin()
    people = [payments_api.buyer() for _ in range(3)]
    since = payments_api.database.clock.now().isoformat()
    ids = [(await _handled(payments_api, person))[1]["id"] for person in people]
    answer = await admin.post(
        "/v1/admin/webhooks/replay", {"from": since, "types": [COMPLETED], "limit": 2}
    )
    assert answer.status_code == 202
    assert (set(answer.json()["event_ids"]), answer.json()["may_be_more"]) == (set(ids[:2]), True)
    answer = await admin.post("/v1/admin/webhooks/replay", {"from": since})
    assert (set(answer.json()["event_ids"]), answer.json()["may_be_more"]) == (set(ids), False)
    assert (await payments_api.payments.run_tasks()) == ["done"] * 3
    assert [payments_api.balance(person) for person in people] == [(50, 0, 0)] * 3
    detail = _audit(payments_api)[-1]["detail"]
    assert (detail["count"], detail["types"]) == (3, None)
    old = (datetime.now(UTC) - timedelta(days=400)).isoformat()
    none = await admin.post("/v1/admin/webhooks/replay", {"to": old})
    assert none.json()["event_ids"] == []
    for body, status in (
        ({}, 422),
        ({"limit": 5}, 422),
        ({"types": []}, 400),
        ({"from": "2026-01-01T00:00:00"}, 400),
        ({"types": [COMPLETED], "limit": 1001}, 400),
    ):
        assert (await admin.post("/v1/admin/webhooks/replay", body)).status_code == status, body


async def test_orders_show_what_wants_a_look(payments_api: PaymentsApiHarness, ada: Buyer) -> None:
    admin = payments_api.admin()
    order = await ada.checkout()
    session_id = payments_api.session_of(order["id"])
    await payments_api.pay(order["id"])
    await payments_api.payments.change("checkout.session", session_id, {"amount_subtotal": 1})
    assert (await payments_api.read_after_sync(ada, order["id"]))["state"] == "review"
    assert payments_api.balance(ada) == (0, 0, 0)
    other = await payments_api.bought(ada, "credits_10")
    mine = {"user_id": str(ada.id)}
    (shown,) = (await admin.read("/v1/admin/orders", in_review="true", **mine))["items"]
    assert (shown["id"], shown["review_reason"]) == (order["id"], "amount_subtotal")
    assert (shown["session_id"], shown["user_id"]) == (session_id, str(ada.id))
    assert shown["customer_id"].startswith("cus_")
    assert shown["payment_intent"].startswith("pi_")
    paid = await admin.read("/v1/admin/orders", state="paid", **mine)
    assert [item["id"] for item in paid["items"]] == [other["id"]]
    page = await admin.read("/v1/admin/orders", limit=1, **mine)
    rest = await admin.read("/v1/admin/orders", limit=1, cursor=page["next_cursor"], **mine)
    assert [page["items"][0]["id"], rest["items"][0]["id"]] == [other["id"], order["id"]]
    detail = await admin.read(f"/v1/admin/orders/{order['id']}")
    assert (detail["review_reason"], detail["refunds"]) == ("amount_subtotal", [])
    seen = await ada.read(f"/v1/payments/{order['id']}")
    assert "review_reason" not in seen
    body = {"order_id": order["id"], "reason": "The price was tampered with."}
    assert (await admin.post("/v1/admin/refunds", body, key="back")).status_code == 202
    await payments_api.payments.run_tasks()
    assert (await admin.read("/v1/admin/orders", in_review="true", **mine))["items"] == []
