"""Leases, second deliveries, dead letters and their replay."""

import asyncio
import uuid

import pytest

from core.generations.pipeline import collect
from core.tasks import outbox
from core.tasks.errors import LeaseLostError
from core.tasks.outbox import Task
from tests.harness.pipeline import SUPABASE_URL, PhotoOwner, PipelineHarness
from tests.integration.generations.conftest import OpenPipeline

LETTERS = "/v1/admin/dead-letters"


async def claim(pipeline: PipelineHarness, task_id: uuid.UUID) -> Task:
    task = await pipeline.ctx.db.run(lambda conn: outbox.claim(conn, task_id, lease_seconds=60))
    assert task is not None
    return task


async def collect_task(pipeline: PipelineHarness, person: PhotoOwner) -> tuple[str, uuid.UUID]:
    """A generation whose image waits at the provider, and the task that fetches it."""
    generation_id = await person.start("packshot")
    await pipeline.submit()
    (task,) = [task for task in pipeline.tasks() if task["job"] == "provider_call.collect"]
    return generation_id, task["id"]


async def test_a_second_delivery_has_no_effect(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    generation_id, task_id = await collect_task(pipeline, ada)
    assert await pipeline.run_one(task_id) == "done"
    before = pipeline.generation(generation_id)
    assert await pipeline.run_one(task_id) == "gone"
    assert pipeline.generation(generation_id) == before
    assert pipeline.balance(ada) == (9, 0)


async def test_a_delivery_while_it_runs_has_no_effect(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    _, task_id = await collect_task(pipeline, ada)
    pipeline.router.hold("/files/")
    first = asyncio.create_task(pipeline.run_one(task_id))
    await pipeline.router.held("/files/")
    assert await pipeline.run_one(task_id) == "gone"
    await pipeline.router.let_through()
    assert await first == "done"
    assert pipeline.balance(ada) == (9, 0)


async def test_a_lost_lease_writes_nothing(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    """Two workers hold the same task one after the other; the first comes back late."""
    generation_id, task_id = await collect_task(pipeline, ada)
    slow = await claim(pipeline, task_id)
    pipeline.pass_leases()
    quick = await claim(pipeline, task_id)
    with pytest.raises(LeaseLostError):
        await collect.collect(pipeline.ctx, slow)
    assert pipeline.state(generation_id) == "collecting"
    assert pipeline.balance(ada) == (9, 1)
    assert pipeline.call(generation_id)["state"] == "accepted"

    await collect.collect(pipeline.ctx, quick)
    assert pipeline.state(generation_id) == "succeeded"
    await collect.collect(pipeline.ctx, slow)
    assert pipeline.balance(ada) == (9, 0)
    assert pipeline.database.rows("select 1 from app.late_images") == []


@pytest.mark.parametrize("fault", ["content_policy", "nsfw_flag"])
async def test_a_lost_lease_refunds_nothing(
    fault: str, pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault(fault)
    generation_id, task_id = await collect_task(pipeline, ada)
    slow = await claim(pipeline, task_id)
    pipeline.pass_leases()
    await claim(pipeline, task_id)
    with pytest.raises(LeaseLostError):
        await collect.collect(pipeline.ctx, slow)
    assert pipeline.state(generation_id) == "collecting"
    assert pipeline.balance(ada) == (9, 1)


async def test_the_wrapper_leaves_a_lost_lease_alone(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id, task_id = await collect_task(pipeline, ada)
    pipeline.router.hold("/files/")
    slow = asyncio.create_task(pipeline.run_one(task_id))
    await pipeline.router.held("/files/")
    pipeline.pass_leases()
    await claim(pipeline, task_id)
    await pipeline.router.let_through()
    assert await slow == "lease_lost"
    assert pipeline.state(generation_id) == "collecting"
    assert [task["id"] for task in pipeline.tasks() if task["lease_until"]] == [task_id]


async def test_a_lease_lasts_as_long_as_its_job(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(task_lease_seconds=0.9) as pipeline:
        ada = await pipeline.person()
        _, task_id = await collect_task(pipeline, ada)
        pipeline.router.hold("/files/")
        running = asyncio.create_task(pipeline.run_one(task_id))
        await pipeline.router.held("/files/")
        await asyncio.sleep(1.3)
        assert await pipeline.run_one(task_id) == "gone"
        await pipeline.router.let_through()
        assert await running == "done"


async def test_a_worker_that_died_is_followed_by_another(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id, task_id = await collect_task(pipeline, ada)
    await claim(pipeline, task_id)
    assert await pipeline.run_one(task_id) == "gone"
    pipeline.pass_leases()
    assert await pipeline.run_one(task_id) == "done"
    assert pipeline.state(generation_id) == "succeeded"


async def test_trouble_that_may_pass_is_tried_again(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id, task_id = await collect_task(pipeline, ada)
    pipeline.router.refuse(SUPABASE_URL)
    pauses = []
    for _ in range(3):
        assert await pipeline.run_one(task_id) == "retry"
        (task,) = [task for task in pipeline.tasks() if task["id"] == task_id]
        pauses.append((task["due_at"] - pipeline.now()).total_seconds())
        assert task["last_error"]
    assert pauses[2] > pauses[0]
    assert pipeline.state(generation_id) == "collecting"
    pipeline.router.accept(SUPABASE_URL)
    assert await pipeline.run_one(task_id) == "done"
    assert pipeline.state(generation_id) == "succeeded"


# --- dead letters --------------------------------------------------------------------------------


async def exhaust(pipeline: PipelineHarness, task_id: uuid.UUID) -> None:
    """Who is away is waited for, for a day."""
    assert await pipeline.run_one(task_id) == "retry"
    pipeline.clock.advance(hours=25)
    assert await pipeline.run_one(task_id) == "dead"


async def test_a_dead_letter_ends_its_generation(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    pipeline.may_bury = True
    generation_id, task_id = await collect_task(pipeline, ada)
    pipeline.router.refuse(SUPABASE_URL)
    await exhaust(pipeline, task_id)

    found = pipeline.generation(generation_id)
    assert (found["state"], found["ending"]) == ("failed", "delivery_failed")
    assert pipeline.balance(ada) == (10, 0)
    (letter,) = pipeline.dead_letters()
    assert (letter["task_id"], letter["job"]) == (task_id, "provider_call.collect")
    assert letter["failures"] == {"absent": 1}
    assert letter["died_at"] <= found["finished_at"], "in the same transaction"
    assert letter["request_id"] == found["request_id"]
    call = pipeline.call(generation_id)
    assert (call["state"], call["error_type"]) == ("abandoned", "dead_letter")
    assert [task for task in pipeline.tasks() if task["id"] == task_id] == []
    assert await pipeline.run_one(task_id) == "gone"


async def test_a_lost_lease_buries_nothing(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    generation_id, task_id = await collect_task(pipeline, ada)
    slow = await claim(pipeline, task_id)
    pipeline.pass_leases()
    await claim(pipeline, task_id)
    with pytest.raises(LeaseLostError):
        await pipeline.ctx.db.run(
            lambda conn: outbox.dead_letter(conn, slow.lease_token, "too late")
        )
    assert pipeline.dead_letters() == []
    assert pipeline.state(generation_id) == "running"


async def test_a_replay_brings_a_late_image_and_charges_nobody(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    pipeline.may_bury = True
    generation_id, task_id = await collect_task(pipeline, ada)
    pipeline.router.refuse(SUPABASE_URL)
    await exhaust(pipeline, task_id)
    pipeline.router.accept(SUPABASE_URL)

    (letter,) = (await pipeline.client.get(LETTERS, headers=pipeline.admin())).json()["items"]
    assert "credits are back" in letter["meaning"]
    path = f"{LETTERS}/{letter['id']}/replay"
    answer = await pipeline.client.post(path, headers=pipeline.admin())
    assert answer.status_code == 202, answer.text
    again = await pipeline.client.post(path, headers=pipeline.admin())
    assert again.json() == answer.json(), "a letter is replayed once"
    replayed = uuid.UUID(next(iter(answer.json().values())))
    assert await pipeline.run_one(replayed) == "done"

    assert pipeline.state(generation_id) == "failed"
    assert pipeline.balance(ada) == (10, 0)
    assert (await ada.read(generation_id))["late_image"]["width"] == 1024
    audited = pipeline.database.rows("select action, target from app.audit_log")
    assert [(row["action"], row["target"]) for row in audited] == [
        ("dead_letter.replay", letter["id"])
    ]


async def test_an_unknown_job_is_a_dead_letter(pipeline: PipelineHarness) -> None:
    pipeline.may_bury = True
    await pipeline.move("select app.add_task('gild.everything', '{}', p_delay_seconds => 0)")
    assert await pipeline.run_tasks() == ["dead"]
    (letter,) = pipeline.dead_letters()
    assert "gild.everything" in letter["error"]


async def test_admins_list_dead_letters(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    pipeline.may_bury = True
    for number in range(5):
        await pipeline.move(
            "select app.add_task(%s, '{}', p_delay_seconds => 0)", (f"job.{number % 2}",)
        )
    await pipeline.run_tasks()
    headers = pipeline.admin()

    async def page(**params: object) -> tuple[list[str], str | None]:
        answer = await pipeline.client.get(LETTERS, params=params, headers=headers)  # type: ignore[arg-type]  # numbers and booleans
        assert answer.status_code == 200, answer.text
        body = answer.json()
        return [item["id"] for item in body["items"]], body["next_cursor"]

    everything, end = await page()
    assert (len(everything), end) == (5, None)
    first, cursor = await page(limit=3)
    second, end = await page(limit=3, cursor=cursor)
    assert (first + second, end) == (everything, None)
    assert len((await page(job="job.0"))[0]) == 3
    await pipeline.client.post(f"{LETTERS}/{everything[0]}/replay", headers=headers)
    assert (await page())[0] == everything[1:]
    assert (await page(open_only="false"))[0] == everything

    missing = await pipeline.client.post(f"{LETTERS}/{uuid.uuid4()}/replay", headers=headers)
    assert (missing.status_code, missing.json()["kind"]) == (404, "dead_letter")
    for stranger in (ada.headers, pipeline.admin(aal="aal1"), {}):
        refused = await pipeline.client.get(LETTERS, headers=stranger)
        assert refused.status_code == (401 if not stranger else 403)
        refused = await pipeline.client.post(f"{LETTERS}/{everything[1]}/replay", headers=stranger)
        assert refused.status_code == (401 if not stranger else 403)
