"""Refunds over HTTP: unused credits for their buyer, any amount for an admin."""

import asyncio
import uuid

from tests.harness.payments_api import Buyer, PaymentsApiHarness


async def test_unused_credits_go_back_for_money(
    payments_api: PaymentsApiHarness, ada: Buyer
) -> None:
    paid = await payments_api.bought(ada)
    body = {"order_id": paid["id"], "credits": 20, "reason": "too many"}
    answer = await ada.post("/v1/refunds", body, key="r")
    assert answer.status_code == 202
    refund = answer.json()
    assert answer.headers["location"] == f"/v1/refunds/{refund['id']}"
    assert (refund["state"], refund["origin"], refund["amount"]) == ("requested", "buyer", 796)
    assert payments_api.balance(ada) == (30, 0, 0)  # they cannot be spent meanwhile
    waiting = asyncio.create_task(ada.post("/v1/refunds", body, key="r", prefer="wait=20"))
    reading = asyncio.create_task(ada.get(f"/v1/refunds/{refund['id']}", prefer="wait=20"))
    await payments_api.payments.run_tasks()
    async with asyncio.timeout(5):
        again, read = await waiting, await reading
    assert (read.status_code, read.json()["state"]) == (200, "succeeded")
    assert (read.headers["preference-applied"], "retry-after" in read.headers) == ("wait=20", False)
    assert (again.status_code, again.json()["id"]) == (202, refund["id"])
    assert again.json()["state"] == "succeeded"
    assert again.headers["preference-applied"] == "wait=20"
    found = await ada.read(f"/v1/refunds/{refund['id']}")
    assert (found["state"], found["reason"]) == ("succeeded", "too many")
    payment = await ada.read(f"/v1/payments/{paid['id']}")
    assert (payment["state"], payment["refunded_credits"], payment["amount_refunded"]) == (
        "partially_refunded",
        20,
        796,
    )
    other = await ada.post("/v1/refunds", {**body, "credits": 1}, key="r")
    assert other.status_code == 422
    assert other.json()["type"].endswith("/idempotency-mismatch")


async def test_all_that_is_unused_by_default(payments_api: PaymentsApiHarness, ada: Buyer) -> None:
    paid = await payments_api.bought(ada)
    much = await ada.post("/v1/refunds", {"order_id": paid["id"], "credits": 51})
    assert (much.status_code, much.json()["field"]) == (422, "credits")
    zero = await ada.post("/v1/refunds", {"order_id": paid["id"], "credits": 0})
    assert zero.status_code == 400
    assert (await ada.post("/v1/refunds", {"order_id": paid["id"]})).status_code == 202
    assert payments_api.balance(ada) == (0, 0, 0)
    await payments_api.payments.run_tasks()
    assert (await ada.read(f"/v1/payments/{paid['id']}"))["state"] == "refunded"
    again = await ada.post("/v1/refunds", {"order_id": paid["id"]})
    assert again.status_code == 409
    missing = await ada.post("/v1/refunds", {"order_id": str(uuid.uuid4())})
    assert (missing.status_code, missing.json()["kind"]) == (404, "order")


async def test_ten_requests_with_one_key_refund_once(
    payments_api: PaymentsApiHarness, ada: Buyer
) -> None:
    paid = await payments_api.bought(ada)
    body = {"order_id": paid["id"], "credits": 5}
    answers = await asyncio.gather(*(ada.post("/v1/refunds", body, key="k") for _ in range(10)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert payments_api.balance(ada) == (45, 0, 0)
    await payments_api.payments.run_tasks()
    refunds = (await ada.read("/v1/refunds", order_id=paid["id"]))["items"]
    assert [(refund["amount"], refund["state"]) for refund in refunds] == [(199, "succeeded")]


async def test_the_list_is_paged_and_filtered(payments_api: PaymentsApiHarness, ada: Buyer) -> None:
    first, second = (
        await payments_api.bought(ada, "credits_10"),
        await payments_api.bought(ada, "credits_50"),
    )
    made = []
    for key, order in (("a", first), ("b", second), ("c", second)):
        answer = await ada.post("/v1/refunds", {"order_id": order["id"], "credits": 1}, key=key)
        made.append(answer.json()["id"])
    page = await ada.read("/v1/refunds", limit=2)
    assert [item["id"] for item in page["items"]] == [made[2], made[1]]
    rest = await ada.read("/v1/refunds", limit=2, cursor=page["next_cursor"])
    assert ([item["id"] for item in rest["items"]], rest["next_cursor"]) == ([made[0]], None)
    of_first = await ada.read("/v1/refunds", order_id=first["id"])
    assert [item["id"] for item in of_first["items"]] == [made[0]]


async def test_an_admin_refunds_what_was_spent_too(
    payments_api: PaymentsApiHarness, ada: Buyer
) -> None:
    paid = await payments_api.bought(ada)
    admin = payments_api.admin()
    body = {"order_id": paid["id"], "amount": 1000, "reason": "The photos were unusable."}
    assert (await admin.post("/v1/admin/refunds", body)).status_code == 400  # a key is needed
    assert (await ada.post("/v1/admin/refunds", body, key="a")).status_code == 403
    answers = [await admin.post("/v1/admin/refunds", body, key="a") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    refund = answers[0].json()
    assert answers[1].json() == refund
    assert ["idempotency-replayed" in answer.headers for answer in answers] == [False, True]
    assert (refund["origin"], refund["amount"]) == ("admin", 1000)
    assert answers[0].headers["location"] == f"/v1/admin/orders/{paid['id']}"
    other = await admin.post("/v1/admin/refunds", {**body, "amount": 999}, key="a")
    assert other.json()["type"].endswith("/idempotency-mismatch")
    much = await admin.post("/v1/admin/refunds", {**body, "amount": 991}, key="b")
    assert (much.status_code, much.json()["field"]) == (422, "amount")
    missing = {**body, "order_id": str(uuid.uuid4())}
    assert (await admin.post("/v1/admin/refunds", missing, key="c")).status_code == 404
    await payments_api.payments.run_tasks()
    assert payments_api.balance(ada) == (25, 0, 0)
    order = await admin.read(f"/v1/admin/orders/{paid['id']}")
    assert order["state"] == "partially_refunded"
    assert [refund["state"] for refund in order["refunds"]] == ["succeeded"]
    rest = {"order_id": paid["id"], "reason": "and the rest"}
    assert (await admin.post("/v1/admin/refunds", rest, key="d")).json()["amount"] == 990
    await payments_api.payments.run_tasks()
    shown = (await ada.read("/v1/refunds"))["items"]
    assert [(each["origin"], each["amount"]) for each in shown] == [("admin", 990), ("admin", 1000)]
    log = await admin.read("/v1/admin/audit", action="payment.refund", target=paid["id"])
    assert [line["detail"]["amount"] for line in log["items"]] == [None, 1000]
    assert {line["actor"] for line in log["items"]} == {str(admin.id)}


async def test_two_clicks_without_a_key(payments_api: PaymentsApiHarness, ada: Buyer) -> None:
    paid = await payments_api.bought(ada)
    body = {"order_id": paid["id"], "credits": 7}
    first, second = await asyncio.gather(*(ada.post("/v1/refunds", body) for _ in range(2)))
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["id"] == second.json()["id"]
    replayed = [answer.headers.get("idempotency-replayed") for answer in (first, second)]
    assert sorted(replayed, key=str) == [None, "true"]
    assert payments_api.balance(ada) == (43, 0, 0)
    await payments_api.payments.run_tasks()


async def test_more_refunds_than_a_month_has(payments_api: PaymentsApiHarness, ada: Buyer) -> None:
    paid = await payments_api.bought(ada)
    for number in range(6):
        answer = await ada.post("/v1/refunds", {"order_id": paid["id"], "credits": 1 + number})
        assert answer.status_code == 202, answer.text
    answer = await ada.post("/v1/refunds", {"order_id": paid["id"]})
    assert (answer.status_code, answer.json()["reason"]) == (429, "returns_per_month")
    assert int(answer.headers["retry-after"]) > 29 * 86_400
    assert answer.json()["detail"] == (
        "Money was returned to you 6 times within 30 days, which is the limit here. It is possible"
        " again in 30 days; if you cannot wait, write to us."
    )
    await payments_api.payments.run_tasks()
