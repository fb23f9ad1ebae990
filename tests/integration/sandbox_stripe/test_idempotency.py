"""Idempotency keys, and the failures in whose company they matter."""

from typing import Any

import anyio
import pytest
import stripe

from tests.integration.sandbox_stripe.support import Stripe

OPTIONS: Any = {"idempotency_key": "checkout:1"}


async def create(pay: Stripe, name: str = "Ada", client: Any = None) -> Any:
    return await (client or pay.sdk).v1.customers.create_async({"name": name}, OPTIONS)


async def names(pay: Stripe) -> list[Any]:
    return [item.name for item in (await pay.v1.customers.list_async()).data]


async def test_same_key_same_answer(pay: Stripe) -> None:
    first = await create(pay)
    again = await create(pay)
    assert again.id == first.id
    assert again.last_response.headers["idempotent-replayed"] == "true"
    assert (
        again.last_response.headers["original-request"] == first.last_response.headers["request-id"]
    )
    assert "idempotent-replayed" not in first.last_response.headers
    assert await names(pay) == ["Ada"]


async def test_other_parameters_are_refused(pay: Stripe) -> None:
    await create(pay)
    with pytest.raises(stripe.IdempotencyError) as caught:
        await create(pay, "Eve")
    assert caught.value.http_status == 400
    assert await names(pay) == ["Ada"]


async def test_a_refusal_of_the_operation_is_kept(pay: Stripe) -> None:
    session = await pay.paid()
    params = {"payment_intent": session.payment_intent, "amount": 5000}
    errors = []
    for _ in range(2):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await pay.v1.refunds.create_async(params, OPTIONS)
        errors.append(caught.value)
    assert errors[0].headers is not None
    assert errors[1].headers is not None
    assert errors[1].headers["idempotent-replayed"] == "true"


async def test_validation_leaves_the_key_free(pay: Stripe) -> None:
    params: Any = {"nmae": "Ada"}
    with pytest.raises(stripe.InvalidRequestError):
        await pay.v1.customers.create_async(params, OPTIONS)
    assert (await create(pay)).name == "Ada"


async def test_a_key_ends_after_a_day(pay: Stripe) -> None:
    await create(pay)
    await pay.control("clock", {"advance_seconds": 86_401})
    await create(pay, "Eve")
    assert await names(pay) == ["Eve", "Ada"]


async def test_a_key_in_use(pay: Stripe) -> None:
    await pay.fault("delay_after", match={"path": "customers"}, times=1, args={"seconds": 0.2})
    async with anyio.create_task_group() as group:
        group.start_soon(create, pay)
        while not pay.box.keys_in_use:  # noqa: ASYNC110  the request is what is waited for
            await anyio.sleep(0.001)
        with pytest.raises(stripe.APIError) as caught:
            await create(pay)
    assert caught.value.http_status == 409
    assert caught.value.error is not None
    assert caught.value.error.code == "idempotency_key_in_use"
    assert await names(pay) == ["Ada"]


async def test_lost_answer_is_found_by_the_retry(pay: Stripe) -> None:
    await pay.fault("drop_after", match={"path": "customers", "method": "POST"}, times=1)
    with pytest.raises(stripe.APIConnectionError):
        await create(pay)
    assert await names(pay) == ["Ada"]
    assert (await create(pay)).name == "Ada"
    assert await names(pay) == ["Ada"]


async def test_the_sdk_retries_with_its_key(pay: Stripe) -> None:
    await pay.fault("drop_after", match={"path": "customers", "method": "POST"}, times=2)
    made = await create(pay, client=pay.client(retries=2))
    assert [item.id for item in (await pay.v1.customers.list_async()).data] == [made.id]


async def test_timeout_after_the_effect(pay: Stripe) -> None:
    await pay.fault("delay_after", times=1, args={"seconds": 0.1})
    with pytest.raises(stripe.APIConnectionError):
        await create(pay, client=pay.client(seconds=0.02))
    assert await names(pay) == ["Ada"]


async def test_timeout_before_the_effect_comes_true_later(pay: Stripe) -> None:
    await pay.fault("delay_before", times=1, args={"seconds": 0.1})
    with pytest.raises(stripe.APIConnectionError):
        await create(pay, client=pay.client(seconds=0.02))
    assert await names(pay) == []
    await anyio.sleep(0.1)
    assert await names(pay) == ["Ada"]


async def test_connection_lost_before_the_effect(pay: Stripe) -> None:
    await pay.fault("drop_before", times=1)
    with pytest.raises(stripe.APIConnectionError):
        await create(pay)
    assert await names(pay) == []
    assert (await create(pay)).name == "Ada"


@pytest.mark.parametrize(("kind", "made"), [("error_before", []), ("error_after", ["Ada"])])
async def test_a_stored_500_stays(pay: Stripe, kind: str, made: list[str]) -> None:
    await pay.fault(kind, match={"method": "POST"}, times=1)
    for attempt in range(2):
        with pytest.raises(stripe.APIError) as caught:
            await create(pay, client=pay.client(retries=attempt))
        assert caught.value.http_status == 500
    assert await names(pay) == made


@pytest.mark.parametrize(("kind", "made"), [("error_before", 1), ("error_after", 2)])
async def test_a_500_of_the_ingress_is_not_stored(pay: Stripe, kind: str, made: int) -> None:
    args = {"status": 503, "stored": False}
    await pay.fault(kind, match={"method": "POST"}, times=1, args=args)
    assert (await create(pay, client=pay.client(retries=1))).name == "Ada"
    assert len(await names(pay)) == made


async def test_rate_limit(pay: Stripe) -> None:
    await pay.fault("rate_limited", match={"path": "checkout/*", "nth": 2})
    await pay.session()
    with pytest.raises(stripe.RateLimitError):
        await pay.session()
    await pay.session()

    rules = (await pay.control("faults", method="GET"))["rules"]
    assert [(rule["seen"], rule["fired"]) for rule in rules] == [(3, 1)]
    await pay.control("faults", method="DELETE")
    assert (await pay.control("faults", method="GET"))["rules"] == []


async def test_silence_takes_no_key(pay: Stripe) -> None:
    """A gateway swallows the first request: the second, with the same key, is the first to come."""
    await pay.fault("silence", match={"path": "customers"}, times=1, args={"seconds": 0.2})
    with pytest.raises(stripe.APIConnectionError):
        await create(pay, client=pay.client(seconds=0.02))
    assert (await create(pay)).name == "Ada"
    await anyio.sleep(0.2)
    assert await names(pay) == ["Ada"], "what was swallowed does not come later"
