"""Admins: payments in review, second payments, disputes and warnings of fraud, over HTTP."""

import uuid

import pytest

from tests.harness.payments_api import Buyer, Json, PaymentsApiHarness

REASON = "Compared with Stripe by hand."


async def _review(payments_api: PaymentsApiHarness, ada: Buyer) -> Json:
    order = await ada.checkout()
    await payments_api.pay(order["id"])
    session_id = payments_api.session_of(order["id"])
    await payments_api.payments.change("checkout.session", session_id, {"currency": "jpy"})
    assert (await payments_api.read_after_sync(ada, order["id"]))["state"] == "review"
    return order


async def _told(payments_api: PaymentsApiHarness, type_: str, order_id: str) -> Json:
    """The event of this order's payment arrives and is handled."""
    payment_id = payments_api.payments.find(uuid.UUID(order_id)).provider_payment_id
    (event,) = [
        each
        for each in await payments_api.payments.events(type_)
        if each["data"]["object"]["payment_intent"] == payment_id
    ]
    await payments_api.deliver(event)
    await payments_api.payments.run_tasks()
    told: Json = event["data"]["object"]
    return told


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        (
            "POST",
            "/v1/admin/orders/0192f3a1-b2c3-7d4e-8f90-a1b2c3d4e5f6/review",
            {"decision": "accepted"},
        ),
        ("GET", "/v1/admin/disputes", None),
        ("POST", "/v1/admin/disputes/du_1/acknowledge", {}),
        ("GET", "/v1/admin/fraud-warnings", None),
        ("POST", "/v1/admin/fraud-warnings/issfr_1/acknowledge", {}),
    ],
)
async def test_only_admins(
    method: str, path: str, body: Json | None, payments_api: PaymentsApiHarness, ada: Buyer
) -> None:
    given = None if body is None else {**body, "reason": REASON}
    headers = {"Idempotency-Key": "k"}
    client = payments_api.client
    answer = await client.request(method, path, json=given, headers=ada.headers | headers)
    assert answer.status_code == 403
    assert (await client.request(method, path, json=given, headers=headers)).status_code == 401
    admin = payments_api.admin().headers | headers
    known = await client.request(method, path, json=given, headers=admin)
    assert known.status_code == (200 if method == "GET" else 404)


async def test_a_review_is_decided_once(payments_api: PaymentsApiHarness, ada: Buyer) -> None:
    admin = payments_api.admin()
    order = await _review(payments_api, ada)
    path = f"/v1/admin/orders/{order['id']}/review"
    body = {"decision": "accepted", "reason": REASON}
    assert (await admin.post(path, body)).status_code == 400, "the key is required"
    wrong = await admin.post(path, {"decision": "perhaps", "reason": REASON}, key="k")
    assert wrong.status_code == 400
    answer = await admin.post(path, body, key="k")
    assert (answer.status_code, answer.json()["state"]) == (202, "review")
    await payments_api.payments.run_tasks()
    assert payments_api.balance(ada) == (50, 0, 0)
    again = await admin.post(path, body, key="k")
    assert (again.status_code, again.headers["idempotency-replayed"]) == (202, "true")
    late = await admin.post(path, body, key="other")
    assert (late.status_code, late.json()["reason"], late.json()["state"]) == (
        409,
        "not_in_review",
        "paid",
    )


async def test_the_second_payment_is_shown_and_refunded(
    payments_api: PaymentsApiHarness, ada: Buyer
) -> None:
    admin = payments_api.admin()
    order = await ada.checkout()
    first = payments_api.session_of(order["id"])
    await payments_api.expire(order["id"])
    await payments_api.read_after_sync(ada, order["id"])
    await ada.post(f"/v1/payments/{order['id']}/retry")
    await payments_api.pay(order["id"])
    await payments_api.read_after_sync(ada, order["id"])
    await payments_api.payments.control(f"sessions/{first}/pay", {"late": True})
    await payments_api.payments.sync(uuid.UUID(order["id"]))
    detail = await admin.read(f"/v1/admin/orders/{order['id']}")
    assert (detail["state"], detail["review_reason"]) == ("paid", "paid_twice")
    (other,) = detail["other_payments"]
    assert (other["session_id"], other["amount_total"], other["amount_refunded"]) == (
        first,
        1990,
        0,
    )
    assert other["payment_intent"] != detail["payment_intent"]
    refund = await admin.post(
        "/v1/admin/refunds", {"order_id": order["id"], "reason": REASON}, key="back"
    )
    assert (refund.status_code, refund.json()["amount"]) == (202, 1990)
    await payments_api.payments.run_tasks()
    detail = await admin.read(f"/v1/admin/orders/{order['id']}")
    assert (detail["state"], detail["review_reason"]) == ("paid", None)
    assert detail["other_payments"][0]["amount_refunded"] == 1990
    assert payments_api.balance(ada) == (50, 0, 0)
    seen = await ada.read(f"/v1/payments/{order['id']}")
    assert "other_payments" not in seen


async def test_disputes_are_listed_with_their_deadline(
    payments_api: PaymentsApiHarness, ada: Buyer
) -> None:
    admin = payments_api.admin()
    paid = await payments_api.bought(ada)
    await payments_api.payments.dispute(
        payments_api.payments.find(uuid.UUID(paid["id"])), reason="product_not_received"
    )
    told = await _told(payments_api, "charge.dispute.created", paid["id"])
    mine = {"user_id": str(ada.id)}
    (shown,) = (await admin.read("/v1/admin/disputes", unanswered_only="true", **mine))["items"]
    assert (shown["id"], shown["order_id"], shown["state"]) == (told["id"], paid["id"], "open")
    assert (shown["amount"], shown["reason"]) == (1990, "product_not_received")
    assert shown["evidence_due_at"] is not None
    path = f"/v1/admin/disputes/{shown['id']}/acknowledge"
    assert (await admin.post(path, {"reason": "x"}, key="k")).status_code == 400
    known = await admin.post(path, {"reason": REASON}, key="k")
    assert (known.status_code, known.json()["acknowledged_at"] is not None) == (200, True)
    listed = await admin.read("/v1/admin/disputes", unanswered_only="true", **mine)
    assert listed == {"items": [], "next_cursor": None}
    by_order = await admin.read("/v1/admin/disputes", order_id=paid["id"])
    assert [each["id"] for each in by_order["items"]] == [shown["id"]]
    assert (await admin.get("/v1/admin/disputes", cursor="x")).status_code == 422


async def test_warnings_are_listed_page_by_page(
    payments_api: PaymentsApiHarness, ada: Buyer
) -> None:
    admin = payments_api.admin()
    orders = [await payments_api.bought(ada, pack) for pack in ("credits_10", "credits_50")]
    ids = []
    for order in orders:
        await payments_api.payments.warn_of_fraud(
            payments_api.payments.find(uuid.UUID(order["id"]))
        )
        told = await _told(payments_api, "radar.early_fraud_warning.created", order["id"])
        ids.append(told["id"])
    mine = {"user_id": str(ada.id), "limit": 1}
    page = await admin.read("/v1/admin/fraud-warnings", **mine)
    rest = await admin.read("/v1/admin/fraud-warnings", cursor=page["next_cursor"], **mine)
    shown = [*page["items"], *rest["items"]]
    assert sorted(each["id"] for each in shown) == sorted(ids)
    assert {each["is_open"] for each in shown} == {True}
    path = f"/v1/admin/fraud-warnings/{ids[0]}/acknowledge"
    assert not (await admin.post(path, {"reason": REASON}, key="k")).json()["is_open"]
    left = await admin.read("/v1/admin/fraud-warnings", open_only="true", user_id=str(ada.id))
    assert [each["id"] for each in left["items"]] == [ids[1]]
