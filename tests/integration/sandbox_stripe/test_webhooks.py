"""Events and how they are delivered."""

import time
from typing import Any

import pytest
import stripe

from sandbox.stripe.webhooks import signature_header
from tests.integration.sandbox_stripe.conftest import MakeStripe
from tests.integration.sandbox_stripe.support import HOOK, SECRET, Stripe


async def customer(pay: Stripe) -> Any:
    return await pay.v1.customers.create_async({"name": "Ada"})


def test_signature_of_the_documentation() -> None:
    header = signature_header(b"{}", ["whsec_a", "whsec_b"], 1_700_000_000)
    names = [part.partition("=")[0] for part in header.split(",")]
    assert names == ["t", "v1", "v1"]
    with pytest.raises(stripe.SignatureVerificationError, match="tolerance"):
        stripe.WebhookSignature.verify_header(b"{}", header, "whsec_b", 300)


async def test_event(pay: Stripe) -> None:
    made = await customer(pay)
    (hook,) = await pay.settled()

    assert hook.verifies()
    assert hook.headers["content-type"] == "application/json; charset=utf-8"
    event = hook.event
    assert (event["object"], event["type"]) == ("event", "customer.created")
    assert event["api_version"] == stripe.api_version
    assert event["pending_webhooks"] == 1
    assert event["livemode"] is False
    assert event["request"]["id"] == made.last_response.headers["request-id"]
    assert abs(event["created"] - time.time()) < 10
    assert hook.object == made.to_dict()
    retrieved = await pay.v1.events.retrieve_async(event["id"])
    assert retrieved.pending_webhooks == 0


async def test_an_event_shows_its_own_moment(pay: Stripe) -> None:
    made = await customer(pay)
    await pay.v1.customers.update_async(made.id, {"name": "Eve"})
    await pay.settled()
    assert pay.inbox.last("customer.created").object["name"] == "Ada"
    assert pay.inbox.last("customer.updated").object["name"] == "Eve"


async def test_retries_until_2xx(pay: Stripe) -> None:
    pay.inbox.answers = [500, 302]
    await customer(pay)
    hooks = await pay.settled()
    assert len(hooks) == 3
    assert len({hook.event["id"] for hook in hooks}) == 1
    (event,) = (await pay.control("events", method="GET"))["events"]
    (delivery,) = event["deliveries"]
    assert delivery["state"] == "delivered"
    assert [attempt["status"] for attempt in delivery["attempts"]] == [500, 302, 200]


async def test_gives_up_at_the_end_of_the_schedule(pay: Stripe) -> None:
    pay.inbox.answers = [500] * 3
    await customer(pay)
    assert len(await pay.settled()) == 3
    await customer(pay)
    await pay.settled()
    failed = await pay.v1.events.list_async({"delivery_success": False})
    assert [event.id for event in failed.data] == [pay.inbox.hooks[0].event["id"]]


async def test_endpoints(pay: Stripe) -> None:
    params = {"url": f"{HOOK}/2", "enabled_events": ["customer.deleted"], "metadata": {"a": "1"}}
    made = await pay.v1.webhook_endpoints.create_async(params)
    assert made.secret.startswith("whsec_")
    assert made.status == "enabled"
    shown = await pay.v1.webhook_endpoints.retrieve_async(made.id)
    assert "secret" not in shown.to_dict()

    victim = await customer(pay)
    await pay.v1.customers.delete_async(victim.id)
    await pay.settled()
    assert sum(hook.verifies(made.secret) for hook in pay.inbox.of("customer.deleted")) == 1
    assert not any(hook.verifies(made.secret) for hook in pay.inbox.of("customer.created"))
    assert pay.inbox.of("customer.deleted")[0].event["pending_webhooks"] == 2

    changed = await pay.v1.webhook_endpoints.update_async(made.id, {"enabled_events": ["*"]})
    assert changed.enabled_events == ["*"]
    changed = await pay.v1.webhook_endpoints.update_async(made.id, {"disabled": True})
    assert changed.status == "disabled"
    pay.inbox.hooks.clear()
    await customer(pay)
    assert len(await pay.settled()) == 1
    assert (await pay.v1.webhook_endpoints.delete_async(made.id)).deleted
    assert len((await pay.v1.webhook_endpoints.list_async()).data) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"enabled_events": ["*", "customer.created"]},
        {"enabled_events": ["customer.exploded"]},
        {"url": "ftp://api.test"},
        {"url": None},
    ],
)
async def test_bad_endpoints(pay: Stripe, change: dict[str, Any]) -> None:
    params = {"url": HOOK, "enabled_events": ["*"], **change}
    with pytest.raises(stripe.InvalidRequestError):
        await pay.v1.webhook_endpoints.create_async(params)


async def test_nothing_is_sent_beyond_this_machine(pay: Stripe) -> None:
    params = {"url": "https://example.com/hook", "enabled_events": ["*"]}
    made = await pay.v1.webhook_endpoints.create_async(params)
    await customer(pay)
    assert len(await pay.settled()) == 1
    (event,) = (await pay.control("events", method="GET"))["events"]
    (blocked,) = [item for item in event["deliveries"] if item["endpoint"] == made.id]
    assert {attempt["error"] for attempt in blocked["attempts"]} == {"host not allowed"}


async def test_rolled_secret(pay: Stripe) -> None:
    (endpoint,) = (await pay.v1.webhook_endpoints.list_async()).data
    reply = await pay.control(f"webhook-endpoints/{endpoint.id}/roll")
    await customer(pay)
    (hook,) = await pay.settled()
    assert hook.verifies(SECRET)
    assert hook.verifies(reply["secret"])

    await pay.control(f"webhook-endpoints/{endpoint.id}/roll", {"old_lives_seconds": 0})
    await customer(pay)
    hook = (await pay.settled())[-1]
    assert not hook.verifies(SECRET)
    assert not hook.verifies(reply["secret"])


async def test_list_of_events(pay: Stripe) -> None:
    victim = await customer(pay)
    await pay.v1.customers.delete_async(victim.id)
    await pay.price()

    async def types(**params: Any) -> list[str]:
        return [item.type for item in (await pay.v1.events.list_async(params)).data]

    assert await types(type="customer.*") == ["customer.deleted", "customer.created"]
    assert await types(types=["price.created", "customer.created"]) == [
        "price.created",
        "customer.created",
    ]
    assert await types(limit=1) == ["price.created"]
    assert await types(created={"gt": int(time.time()) + 10}) == []
    await pay.control("clock", {"advance_seconds": 31 * 86_400})
    assert await types() == []
    for params in (
        {"types": ["customer.*"]},
        {"types": ["customer.created"] * 21},
        {"types": ["customer.created"], "type": "customer.created"},
    ):
        with pytest.raises(stripe.InvalidRequestError):
            await types(**params)


# -- what goes wrong --------------------------------------------------------------------------


async def test_dropped(pay: Stripe) -> None:
    await pay.fault("webhook_drop", match={"event": "customer.*"}, times=1)
    await customer(pay)
    await customer(pay)
    assert len(await pay.settled()) == 1


async def test_duplicated(pay: Stripe) -> None:
    await pay.fault("webhook_duplicate", args={"count": 3})
    await customer(pay)
    hooks = await pay.settled()
    assert len(hooks) == 3
    assert len({hook.raw for hook in hooks}) <= 2  # pending_webhooks may have gone down
    assert all(hook.verifies() for hook in hooks)


async def test_reordered(pay: Stripe) -> None:
    await pay.fault("webhook_reorder", match={"event": "customer.created"}, times=1)
    made = await customer(pay)
    await pay.v1.customers.update_async(made.id, {"name": "Eve"})
    await pay.settled()
    assert pay.inbox.types == ["customer.updated", "customer.created"]


async def test_delayed(pay: Stripe) -> None:
    await pay.fault("webhook_delay", match={"nth": 1}, args={"seconds": 0.05})
    made = await customer(pay)
    await pay.v1.customers.update_async(made.id, {"name": "Eve"})
    await pay.settled()
    assert pay.inbox.types == ["customer.updated", "customer.created"]


@pytest.mark.parametrize("kind", ["webhook_bad_signature", "webhook_unsigned", "webhook_stale"])
async def test_does_not_verify(pay: Stripe, kind: str) -> None:
    await pay.fault(kind, times=1)
    await customer(pay)
    await customer(pay)
    assert [hook.verifies() for hook in await pay.settled()] == [False, True]


async def test_says_live(pay: Stripe) -> None:
    await pay.fault("webhook_livemode")
    await customer(pay)
    (hook,) = await pay.settled()
    assert hook.event["livemode"] is True
    assert hook.verifies()


async def test_jitter_changes_the_order(make_stripe: MakeStripe) -> None:
    pay = await make_stripe(webhook_jitter_seconds=0.05, seed=1)
    for _ in range(8):
        await customer(pay)
    seen = [hook.object["id"] for hook in await pay.settled()]
    listed = await pay.v1.customers.list_async()
    made = [item.id for item in listed.data][::-1]
    assert sorted(seen) == sorted(made)
    assert seen != made


@pytest.mark.parametrize("order", ["created", "reversed", "shuffled"])
async def test_held_back_and_released(pay: Stripe, order: str) -> None:
    await pay.tune(webhooks_held=True)
    made = [(await customer(pay)).id for _ in range(5)]
    assert await pay.settled() == []
    held = (await pay.control("webhooks", method="GET"))["held"]
    assert len(held) == 5

    await pay.control("webhooks/release", {"order": order, "copies": 3, "parallel": 2, "seed": 7})
    seen = [hook.object["id"] for hook in await pay.settled()]
    assert sorted(seen) == sorted(made * 3)
    assert (await pay.control("webhooks", method="GET"))["held"] == []
    if order == "shuffled":
        assert seen != [id_ for id_ in made for _ in range(3)]


async def test_resend(pay: Stripe) -> None:
    await customer(pay)
    (first,) = await pay.settled()
    reply = await pay.control(f"events/{first.event['id']}/resend", {"copies": 2})
    assert [hook.event["id"] for hook in pay.inbox.hooks] == [first.event["id"]] * 3
    assert len(reply["deliveries"][0]["attempts"]) == 3


async def test_forged_event(pay: Stripe) -> None:
    made = await pay.control(
        "events", {"type": "galaxy.exploded", "object": {"id": "x_1", "object": "galaxy"}}
    )
    (hook,) = await pay.settled()
    assert (hook.type, hook.event["id"]) == ("galaxy.exploded", made["id"])
    assert hook.verifies()
