"""`Idempotency-Key`: whatever is repeated, it is carried out once."""

import asyncio
from typing import Any

import httpx

from tests.harness.pipeline import PhotoOwner, PipelineHarness


async def _post_until_answered(person: PhotoOwner, key: str) -> tuple[httpx.Response, int]:
    """The answer after as many repetitions as `Retry-After` asks for, and how many those were."""
    for attempt in range(10):
        answer = await person.create("packshot", key=key)
        if answer.status_code != 409:
            return answer, attempt
        assert answer.json()["type"].endswith("/problems/request-in-progress")
        await asyncio.sleep(int(answer.headers["retry-after"]))
    raise AssertionError("never answered")


async def test_twenty_clients_with_one_key(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    insisted = await asyncio.gather(*(_post_until_answered(ada, "order-1") for _ in range(20)))

    answers = [answer for answer, _ in insisted]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 19
    assert max(repeats for _, repeats in insisted) <= 1
    assert len(pipeline.database.rows("select from app.generations")) == 1
    assert len(pipeline.database.rows("select from app.reservations")) == 1
    assert pipeline.balance(ada) == (9, 1)
    assert len(pipeline.tasks()) == 1


async def test_the_same_request_answers_the_same(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    first = await ada.create("packshot", key="k")
    await pipeline.finish(first.json()["id"])
    again = await ada.create("packshot", key="k")
    assert (again.status_code, again.content) == (202, first.content)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert pipeline.balance(ada) == (9, 0)


async def test_a_repeated_wait_tells_how_it_ended(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    first = await ada.create("packshot", key="k")
    await pipeline.finish(first.json()["id"])
    again = await ada.create("packshot", key="k", wait=5)
    assert (again.status_code, again.json()["state"]) == (200, "succeeded")
    assert pipeline.balance(ada) == (9, 0)


async def test_another_body_is_another_request(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    await ada.create("packshot", key="k")
    other = await ada.create("cutout", key="k")
    assert other.status_code == 422
    assert other.json()["type"].endswith("/problems/idempotency-mismatch")
    assert pipeline.balance(ada) == (9, 1)


async def test_keys_belong_to_a_person_and_a_route(
    pipeline: PipelineHarness, ada: PhotoOwner, bob: PhotoOwner
) -> None:
    mine = await ada.create("packshot", key="k")
    theirs = await bob.create("packshot", key="k")
    assert mine.json()["id"] != theirs.json()["id"]
    await pipeline.finish(mine.json()["id"])
    retried = await ada.post(f"/v1/generations/{mine.json()['id']}/retry", key="k")
    assert retried.status_code == 202
    assert retried.json()["id"] != mine.json()["id"]
    elsewhere = await ada.post(f"/v1/generations/{retried.json()['id']}/retry", key="k")
    assert elsewhere.status_code == 422
    assert elsewhere.json()["type"].endswith("/problems/idempotency-mismatch")


async def test_a_refusal_is_not_kept(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    poor = await pipeline.person(0)
    assert (await poor.create("packshot", key="k")).status_code == 402
    pipeline.ledger.grant(poor.id, 1)
    assert (await poor.create("packshot", key="k")).status_code == 202
    assert pipeline.balance(ada) == (10, 0)


async def test_an_expired_key_may_be_used_again(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    first = await ada.create("packshot", key="k")
    await ada.post(f"/v1/generations/{first.json()['id']}/cancel")
    pipeline.clock.advance_past("select expires_at from app.idempotency_keys")
    second = await ada.create("cutout", key="k")
    assert second.status_code == 202
    assert second.json()["id"] != first.json()["id"]


async def test_a_retry_with_a_key_happens_once(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    old = await ada.start("packshot")
    await pipeline.finish(old)

    async def retry() -> dict[str, Any]:
        for _ in range(5):
            answer = await ada.post(f"/v1/generations/{old}/retry", key="again")
            if answer.status_code == 202:
                return dict(answer.json())
            await asyncio.sleep(int(answer.headers["retry-after"]))
        raise AssertionError("never answered")

    answers = await asyncio.gather(*(retry() for _ in range(5)))
    assert len({answer["id"] for answer in answers}) == 1
    assert pipeline.balance(ada) == (8, 1)


async def test_keys_have_a_form(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    for key in ("", "x" * 256, "a\tb"):
        answer = await ada.create("packshot", key=key)
        assert answer.status_code in {400, 422}, key
    assert (await ada.create("packshot", key="x" * 255)).status_code == 202
    assert pipeline.balance(ada) == (9, 1)
