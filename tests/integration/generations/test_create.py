"""POST /v1/generations: what is taken, what is refused, and what each costs."""

import asyncio
import time
import uuid
from typing import Any

import pytest

from tests.harness.pipeline import PhotoOwner, PipelineHarness
from tests.integration.generations.conftest import OpenPipeline


async def test_accepted_work_is_reserved_and_queued(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    headers = {**ada.headers, "X-Request-ID": "request-of-ada"}
    answer = await pipeline.client.post(
        "/v1/generations", json=ada.order("packshot", params={}), headers=headers
    )

    assert answer.status_code == 202, answer.text
    view = answer.json()
    assert answer.headers["location"] == f"/v1/generations/{view['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert (view["state"], view["money"], view["cost_credits"]) == ("queued", "reserved", 1)
    assert (view["lane"], view["operation"], view["priority"]) == (
        "locked",
        "packshot",
        "interactive",
    )
    assert view["params"] == {
        "margin_percent": 8,
        "aspect_ratio": "1:1",
        "size": 2000,
        "shadow": "none",
    }
    assert pipeline.balance(ada) == (9, 1)
    (task,) = pipeline.tasks()
    assert (task["dedupe_key"], task["job"]) == (view["id"], "generation.dispatch")
    assert task["request_id"] == pipeline.generation(view["id"])["request_id"] == "request-of-ada"
    assert task["due_at"] > task["created_at"], "the commit wakes; the relay is the second chance"
    followed = await pipeline.client.get(answer.headers["location"], headers=ada.headers)
    assert followed.json()["id"] == view["id"]


async def test_the_edge_wakes_a_worker(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    generation_id = await ada.start()
    batch_id = await ada.start(priority="batch")

    assert await pipeline.until_woken(2) == [
        f"{pipeline.ticket_of(each)}-0" for each in (generation_id, batch_id)
    ]


async def test_waiting_answers_with_the_image(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    async with pipeline.working():
        answer = await ada.create("cutout", wait=20)

    assert answer.status_code == 200, answer.text
    view = answer.json()
    assert answer.headers["location"] == f"/v1/generations/{view['id']}"
    assert answer.headers["preference-applied"] == "wait=20"
    assert "retry-after" not in answer.headers
    assert (view["state"], view["money"]) == ("succeeded", "charged")
    assert view["image"]["result_url"] == f"/v1/generations/{view['id']}/result"
    assert pipeline.balance(ada) == (9, 0)


async def test_who_reads_may_wait_too(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    generation_id = await ada.start()
    path = f"/v1/generations/{generation_id}"
    early = await ada.get(path)
    assert (early.json()["state"], early.headers["retry-after"]) == ("queued", "2")
    async with asyncio.timeout(10):
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(ada.get_later(path, wait=20))
            group.create_task(pipeline.finish(generation_id))
    answer = waiting.result()
    assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")
    assert answer.json()["timeline"] is not None
    assert answer.headers["preference-applied"] == "wait=20"
    assert "retry-after" not in answer.headers


async def test_waiting_also_ends_without_an_image(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("content_policy")
    async with pipeline.working():
        answer = await ada.create("cutout", wait=20)

    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["money"]) == ("failed", "refunded")
    assert answer.json()["problem"]["code"] == "content_refused"
    assert pipeline.balance(ada) == (10, 0)


async def test_waiting_ends_when_the_time_is_over(ada: PhotoOwner) -> None:
    started = time.monotonic()
    answer = await ada.create("cutout", wait=1)

    assert 0.9 < time.monotonic() - started < 3
    assert answer.status_code == 202
    assert answer.json()["state"] == "queued"
    assert answer.headers["preference-applied"] == "wait=1"
    assert answer.headers["retry-after"]


@pytest.mark.parametrize("prefer", ["wait=0", "respond-async", "wait=-5", "wait=soon"])
async def test_other_preferences_are_passed_over(
    prefer: str, pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    answer = await pipeline.client.post(
        "/v1/generations", json=ada.order(), headers={**ada.headers, "Prefer": prefer}
    )
    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers


async def test_no_such_operation(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    answer = await ada.create("gild")
    assert (answer.status_code, answer.json()["kind"]) == (404, "operation")
    assert pipeline.balance(ada) == (10, 0)


async def test_no_such_photo(pipeline: PipelineHarness, ada: PhotoOwner, bob: PhotoOwner) -> None:
    for upload_id in (uuid.uuid4(), bob.upload_id):
        answer = await ada.create(upload_id=str(upload_id))
        assert (answer.status_code, answer.json()["kind"]) == (404, "upload")
    assert pipeline.balance(ada) == (10, 0)


@pytest.mark.parametrize("state", ["pending", "stored", "rejected"])
async def test_a_photo_that_is_not_ready(
    state: str, pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    upload_id = await pipeline.upload(ada.id, state=state)
    answer = await ada.create(upload_id=str(upload_id))
    problem = answer.json()
    assert (answer.status_code, problem["reason"], problem["state"]) == (
        409,
        "upload_not_ready",
        state,
    )
    assert pipeline.balance(ada) == (10, 0)


@pytest.mark.parametrize(
    ("operation", "params", "pointers"),
    [
        ("packshot", {"size": 99, "glitter": 1}, {"#/params/size", "#/params/glitter"}),
        ("packshot", {"shadow": "hard"}, {"#/params/shadow"}),
        ("packshot", {"margin_percent": "8"}, {"#/params/margin_percent"}),
        ("cutout", {"seed": 1}, {"#/params/seed"}),
        ("scene", {}, {"#/params"}),
        ("scene", {"prompt": "x"}, {"#/params/prompt"}),
        ("scene", {"prompt": "on mar\0ble"}, {"#/params/prompt"}),
        ("upscale", {"factor": 9}, {"#/params/factor"}),
    ],
)
async def test_parameters_that_do_not_fit(
    operation: str,
    params: dict[str, Any],
    pointers: set[str],
    pipeline: PipelineHarness,
    ada: PhotoOwner,
) -> None:
    answer = await ada.create(operation, params=params)
    assert answer.status_code == 422, answer.text
    assert {error["pointer"] for error in answer.json()["errors"]} == pointers
    assert pipeline.balance(ada) == (10, 0)
    assert pipeline.tasks() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"upload_id": "none"},
        {"operation": 7},
        {"params": []},
        {"priority": "first"},
        {"cost_credits": 0},
        {"operation": "x" * 65},
    ],
)
async def test_a_body_of_another_form(
    changes: dict[str, Any], pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    answer = await ada.create(**changes)
    assert answer.status_code == 400, answer.text
    assert answer.json()["errors"]
    assert pipeline.tasks() == []


async def test_too_little_money(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    poor = await pipeline.person(5)
    answer = await poor.create("scene_hd")
    problem = answer.json()
    assert answer.status_code == 402
    assert problem["type"].endswith("/problems/insufficient-credits")
    assert (problem["required"], problem["available"], problem["debt"]) == (6, 5, 0)
    assert pipeline.tasks() == []
    assert pipeline.balance(poor) == (5, 0)
    assert pipeline.balance(ada) == (10, 0)


async def test_nobody_in_particular(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    for headers in ({}, {"Authorization": "Bearer none"}):
        answer = await pipeline.client.post("/v1/generations", json=ada.order(), headers=headers)
        assert answer.status_code == 401
    assert pipeline.tasks() == []


async def test_fifty_at_once_on_a_balance_of_ten(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline() as pipeline:
        ada = await pipeline.person(10)
        answers = await asyncio.gather(*(ada.create("packshot") for _ in range(50)))

        accepted = [answer for answer in answers if answer.status_code == 202]
        refused = [answer for answer in answers if answer.status_code == 402]
        assert (len(accepted), len(refused)) == (10, 40)
        assert {answer.json()["required"] for answer in refused} == {1}
        assert len({answer.json()["id"] for answer in accepted}) == 10
        assert pipeline.balance(ada) == (0, 10)
        assert len(pipeline.tasks()) == 10
        assert pipeline.database.drift() == []
