"""What the provider bills for somebody and nobody pays is bounded, a person and day."""

import uuid
from typing import Any

import httpx
import msgspec
import pytest

from tests.harness.pipeline import SCENE_ENDPOINT, PhotoOwner, PipelineHarness

PRICES = {"cutout": 1, "packshot": 1, "scene": 4}


@pytest.fixture
async def ada(pipeline: PipelineHarness) -> PhotoOwner:
    """Somebody with the credits of a new account."""
    return await _newcomer(pipeline)


@pytest.fixture
async def bob(pipeline: PipelineHarness) -> PhotoOwner:
    return await _newcomer(pipeline)


async def _newcomer(pipeline: PipelineHarness) -> PhotoOwner:
    person = await pipeline.person(0)
    pipeline.ledger.grant(person.id, 10, source="signup", lives="90 days")
    return person


async def _ended(
    pipeline: PipelineHarness,
    ada: PhotoOwner,
    ending: str,
    *,
    operation: str = "scene",
    units: str | None = "1",
    state: str = "succeeded",
) -> None:
    """A run that was at the provider and led to no image, for this reason."""
    generation_id = await ada.start(operation)
    (intent,) = await pipeline.open_calls()
    facts = {
        "call_id": str(intent.call_id),
        "call": {"state": state, "http_status": 200, "billable_units": units},
        "ending": ending,
    }
    outcome = "cancelled" if ending == "cancelled" else "failed"
    pipeline.database.rows(
        "select app.finish_generation(%s, null, %s, %s::jsonb)",
        (generation_id, outcome, msgspec.json.encode(facts).decode()),
    )


def _buy(pipeline: PipelineHarness, ada: PhotoOwner, *, amount: int = 490) -> None:
    order_id = uuid.uuid4()
    pipeline.database.rows(
        "insert into app.orders (id, user_id, pack_slug, pack_version, credits, unit_amount,"
        " currency, state, expires_at, amount_total, paid_at)"
        " select %s, %s, slug, version, credits, unit_amount, currency, 'paid', app.now(), %s,"
        " app.now() from app.packs where slug = 'credits_10'",
        (order_id, ada.id, amount),
    )
    key = f"order:{order_id}"
    pipeline.database.rows(
        "select app.grant_credits(%s, 10, 'purchase', %s, null, %s)", (ada.id, key, key)
    )


def _refused(answer: httpx.Response) -> dict[str, Any]:
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem.get("reason")) == (429, "unpaid_work"), answer.text
    return problem


async def test_scenes_that_are_flagged_again_and_again(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """The same ten credits, again and again: 0.08 dollars each at the provider."""
    await pipeline.fault("nsfw_flag")
    for _ in range(3):
        found = await pipeline.finish(await ada.start("scene"))
        assert found["ending"] == "output_flagged"
    assert pipeline.balance(ada) == (10, 0)
    answer = await ada.create("scene")
    problem = _refused(answer)
    assert (problem["used"], problem["limit"]) == (12, 10)
    assert 86_000 < int(answer.headers["Retry-After"]) <= 86_400
    assert problem["detail"] == (
        "Within a day work worth 12 credits was done for you and refunded, because it was"
        " cancelled or the photo or the words led to no image; 10 credits are the limit. You can"
        " go on in 24 hours, or at once when you buy credits."
    )
    paid = [call for call in await pipeline.paid_calls() if call["state"] == "billed"]
    assert [call["endpoint"] for call in paid] == [SCENE_ENDPOINT] * 3
    assert pipeline.balance(ada) == (10, 0)
    _refused(await ada.create("cutout"))


@pytest.mark.parametrize(
    "ending",
    ["output_blank", "output_not_enlarged", "output_nothing_found", "cancelled", "no_image"],
)
async def test_each_reason_of_the_persons_own_counts(
    pipeline: PipelineHarness, ada: PhotoOwner, ending: str
) -> None:
    for _ in range(10):
        await _ended(pipeline, ada, ending, operation="cutout")
    assert _refused(await ada.create("cutout"))["used"] == 10


@pytest.mark.parametrize(
    "ending",
    [
        *("provider_failed", "output_broken", "output_undecodable", "delivery_failed"),
        *("deadline_exceeded", "output_no_alpha", "photo_not_fetched", "model_missing"),
    ],
)
async def test_what_is_not_the_persons_fault_never_counts(
    pipeline: PipelineHarness, ada: PhotoOwner, ending: str
) -> None:
    for _ in range(4):
        await _ended(pipeline, ada, ending)
    assert (await ada.create("cutout")).status_code == 202


async def test_what_was_not_billed_does_not_count(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    for units in ("0", None):
        for _ in range(3):
            await _ended(pipeline, ada, "content_refused", units=units, state="failed")
    assert (await ada.create("cutout")).status_code == 202


async def test_a_delivered_call_without_a_bill_counts(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    for _ in range(3):
        await _ended(pipeline, ada, "output_flagged", units=None)
    _refused(await ada.create("cutout"))


async def test_it_goes_on_when_retry_after_says(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    for _ in range(3):
        await _ended(pipeline, ada, "output_flagged")
        pipeline.clock.advance(hours=2)
    seconds = _refused(await ada.create("cutout"))["retry_after_seconds"]
    assert 64_000 < seconds < 65_000, "when the first of them is a day old"
    pipeline.clock.advance(seconds=seconds - 60)
    _refused(await ada.create("cutout"))
    pipeline.clock.advance(seconds=61)
    assert (await ada.create("cutout")).status_code == 202


async def test_whoever_buys_goes_on_at_once_and_further(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    for _ in range(3):
        await _ended(pipeline, ada, "output_flagged")
    _refused(await ada.create("cutout"))
    _buy(pipeline, ada, amount=0)
    _refused(await ada.create("cutout"))
    _buy(pipeline, ada)
    for _ in range(25):
        await _ended(pipeline, ada, "output_flagged")
    problem = _refused(await ada.create("cutout"))
    assert (problem["used"], problem["limit"]) == (112, 100), "and the ten that were bought today"


async def test_whom_an_admin_gave_credits_is_known(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    for _ in range(3):
        await _ended(pipeline, ada, "output_flagged")
    _refused(await ada.create("cutout"))
    pipeline.ledger.adjust(ada.id, 1, "goodwill")
    assert (await ada.create("cutout")).status_code == 202


async def test_a_payment_that_went_back_does_not_help(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    _buy(pipeline, ada)
    for _ in range(3):
        await _ended(pipeline, ada, "output_flagged")
    assert (await ada.create("cutout")).status_code == 202
    pipeline.database.rows(
        "insert into app.payment_disputes (dispute_id, order_id, user_id, amount, state)"
        " select 'dp_1', id, user_id, amount_total, 'lost' from app.orders"
    )
    pipeline.database.rows("select app.settle_order(id) from app.orders")
    _refused(await ada.create("cutout"))


async def test_what_succeeds_pays_for_what_does_not(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    first = await ada.start("cutout")
    await pipeline.finish(first)
    for _ in range(2):
        await _ended(pipeline, ada, "output_flagged")
    for _ in range(3):
        await _ended(pipeline, ada, "output_blank", operation="cutout")
    assert _refused(await ada.create("cutout"))["used"] == 11, "ten, and the one that was charged"


async def test_another_person_is_not_concerned(
    pipeline: PipelineHarness, ada: PhotoOwner, bob: PhotoOwner
) -> None:
    for _ in range(3):
        await _ended(pipeline, ada, "output_flagged")
    _refused(await ada.create("cutout"))
    assert (await bob.create("cutout")).status_code == 202


async def test_the_share_nobody_pays_is_a_figure(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.finish(await ada.start("cutout"))
    for _ in range(2):
        await _ended(pipeline, ada, "output_flagged")
    figures = {
        (row["name"], row["labels"]["paid"]): row["value"]
        for row in pipeline.database.rows("select * from app.unpaid_figures()")
    }
    assert figures["jewelshot_provider_calls_billed_last_hour", "no"] == 2
    assert figures["jewelshot_provider_cost_usd_last_hour", "no"] == pytest.approx(0.16)
    assert figures["jewelshot_provider_calls_billed_last_hour", "yes"] == 1
    assert 0 < figures["jewelshot_provider_cost_usd_last_hour", "yes"] < 0.1
