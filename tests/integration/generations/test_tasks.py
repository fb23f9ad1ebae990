"""Leases, second deliveries, dead letters and their replay."""

import asyncio
import uuid

import pytest

from core import errors
from core.generations.pipeline import collect
from core.tasks import outbox
from core.tasks.outbox import Task
from tests.integration.generations.conftest import OpenWorld
from tests.integration.generations.world import SUPABASE_URL, Person, World
from worker import tasks

LETTERS = "/v1/admin/dead-letters"


async def claim(world: World, task_id: uuid.UUID) -> Task:
    task = await world.ctx.db.run(lambda conn: outbox.claim(conn, task_id, lease_seconds=60))
    assert task is not None
    return task


async def collect_task(world: World, person: Person) -> tuple[str, uuid.UUID]:
    """A generation whose image waits at the provider, and the task that fetches it."""
    generation_id = await person.start("packshot")
    await world.submit()
    (task,) = [task for task in world.tasks() if task["job"] == "provider_call.collect"]
    return generation_id, task["id"]


async def test_a_second_delivery_has_no_effect(world: World, ada: Person) -> None:
    generation_id, task_id = await collect_task(world, ada)
    assert await world.run_one(task_id) == "done"
    before = world.generation(generation_id)
    assert await world.run_one(task_id) == "gone"
    assert world.generation(generation_id) == before
    assert world.balance(ada) == (9, 0)


async def test_a_delivery_while_it_runs_has_no_effect(world: World, ada: Person) -> None:
    _, task_id = await collect_task(world, ada)
    world.wires.hold("/files/")
    first = asyncio.create_task(world.run_one(task_id))
    await world.wires.held("/files/")
    assert await world.run_one(task_id) == "gone"
    await world.wires.let_through()
    assert await first == "done"
    assert world.balance(ada) == (9, 0)


async def test_a_lost_lease_writes_nothing(world: World, ada: Person) -> None:
    """Two workers hold the same task one after the other; the first comes back late."""
    generation_id, task_id = await collect_task(world, ada)
    slow = await claim(world, task_id)
    await world.pass_leases()
    quick = await claim(world, task_id)
    with pytest.raises(errors.LeaseLostError):
        await collect.collect(world.ctx, slow)
    assert world.state(generation_id) == "collecting"
    assert world.balance(ada) == (9, 1)
    assert world.call(generation_id)["state"] == "accepted"

    await collect.collect(world.ctx, quick)
    assert world.state(generation_id) == "succeeded"
    await collect.collect(world.ctx, slow)
    assert world.balance(ada) == (9, 0)
    assert world.database.rows("select 1 from app.late_images") == []


@pytest.mark.parametrize("fault", ["content_policy", "output_corrupt"])
async def test_a_lost_lease_refunds_nothing(fault: str, world: World, ada: Person) -> None:
    await world.fault(fault)
    generation_id, task_id = await collect_task(world, ada)
    slow = await claim(world, task_id)
    await world.pass_leases()
    await claim(world, task_id)
    with pytest.raises(errors.LeaseLostError):
        await collect.collect(world.ctx, slow)
    assert world.state(generation_id) == "collecting"
    assert world.balance(ada) == (9, 1)


async def test_the_wrapper_leaves_a_lost_lease_alone(world: World, ada: Person) -> None:
    generation_id, task_id = await collect_task(world, ada)
    world.wires.hold("/files/")
    slow = asyncio.create_task(world.run_one(task_id))
    await world.wires.held("/files/")
    await world.pass_leases()
    await claim(world, task_id)
    await world.wires.let_through()
    assert await slow == "lease_lost"
    assert world.state(generation_id) == "collecting"
    assert [task["id"] for task in world.tasks() if task["lease_until"]] == [task_id]


async def test_a_lease_lasts_as_long_as_its_job(open_world: OpenWorld) -> None:
    async with open_world(task_lease_seconds=0.9) as world:
        ada = await world.person()
        _, task_id = await collect_task(world, ada)
        world.wires.hold("/files/")
        running = asyncio.create_task(world.run_one(task_id))
        await world.wires.held("/files/")
        await asyncio.sleep(1.3)
        assert await world.run_one(task_id) == "gone"
        await world.wires.let_through()
        assert await running == "done"


async def test_a_worker_that_died_is_followed_by_another(world: World, ada: Person) -> None:
    generation_id, task_id = await collect_task(world, ada)
    await claim(world, task_id)
    assert await world.run_one(task_id) == "gone"
    await world.pass_leases()
    assert await world.run_one(task_id) == "done"
    assert world.state(generation_id) == "succeeded"


async def test_trouble_that_may_pass_is_tried_again(world: World, ada: Person) -> None:
    generation_id, task_id = await collect_task(world, ada)
    world.wires.refuse(SUPABASE_URL)
    pauses = []
    for _ in range(3):
        assert await world.run_one(task_id) == "retry"
        (task,) = [task for task in world.tasks() if task["id"] == task_id]
        pauses.append((task["due_at"] - world.now()).total_seconds())
        assert task["last_error"]
    assert pauses[2] > pauses[0]
    assert world.state(generation_id) == "collecting"
    world.wires.accept(SUPABASE_URL)
    assert await world.run_one(task_id) == "done"
    assert world.state(generation_id) == "succeeded"


# --- dead letters --------------------------------------------------------------------------------


async def exhaust(world: World, task_id: uuid.UUID) -> None:
    await world.move(
        "update app.outbox set attempts = %s where id = %s", (tasks.ATTEMPTS_MAX - 1, task_id)
    )
    assert await world.run_one(task_id) == "dead"


async def test_a_dead_letter_ends_its_generation(world: World, ada: Person) -> None:
    world.may_bury = True
    generation_id, task_id = await collect_task(world, ada)
    world.wires.refuse(SUPABASE_URL)
    await exhaust(world, task_id)

    found = world.generation(generation_id)
    assert (found["state"], found["problem"]["code"]) == ("failed", "delivery_failed")
    assert world.balance(ada) == (10, 0)
    (letter,) = world.dead_letters()
    assert (letter["id"], letter["job"], letter["attempts"]) == (
        task_id,
        "provider_call.collect",
        tasks.ATTEMPTS_MAX,
    )
    assert letter["died_at"] <= found["finished_at"], "in the same transaction"
    assert letter["request_id"] == found["request_id"]
    call = world.call(generation_id)
    assert (call["state"], call["error_type"]) == ("abandoned", "dead_letter")
    assert [task for task in world.tasks() if task["id"] == task_id] == []
    assert await world.run_one(task_id) == "gone"


async def test_a_lost_lease_buries_nothing(world: World, ada: Person) -> None:
    generation_id, task_id = await collect_task(world, ada)
    slow = await claim(world, task_id)
    await world.pass_leases()
    await claim(world, task_id)
    with pytest.raises(errors.LeaseLostError):
        await world.ctx.db.run(lambda conn: outbox.bury(conn, slow.lease_token, "too late"))
    assert world.dead_letters() == []
    assert world.state(generation_id) == "running"


async def test_a_replay_brings_a_late_image_and_charges_nobody(world: World, ada: Person) -> None:
    world.may_bury = True
    generation_id, task_id = await collect_task(world, ada)
    world.wires.refuse(SUPABASE_URL)
    await exhaust(world, task_id)
    world.wires.accept(SUPABASE_URL)

    answer = await world.client.post(f"{LETTERS}/{task_id}/replay", headers=world.admin())
    assert answer.status_code == 202, answer.text
    again = await world.client.post(f"{LETTERS}/{task_id}/replay", headers=world.admin())
    assert again.json() == answer.json(), "a task that is live again stays one task"
    replayed = uuid.UUID(next(iter(answer.json().values())))
    assert await world.run_one(replayed) == "done"

    assert world.state(generation_id) == "failed"
    assert world.balance(ada) == (10, 0)
    assert (await ada.look(generation_id))["late_image"]["width"] == 2000
    audited = world.database.rows("select action, target from app.audit_log")
    assert [(row["action"], row["target"]) for row in audited] == [
        ("dead_letter.replay", str(task_id))
    ] * 2


async def test_an_unknown_job_is_a_dead_letter(world: World) -> None:
    world.may_bury = True
    await world.move("select app.add_task('gild.everything', '{}', p_delay_seconds => 0)")
    assert await world.run_tasks() == ["dead"]
    (letter,) = world.dead_letters()
    assert "gild.everything" in letter["error"]


async def test_admins_list_dead_letters(world: World, ada: Person) -> None:
    world.may_bury = True
    for number in range(5):
        await world.move(
            "select app.add_task(%s, '{}', p_delay_seconds => 0)", (f"job.{number % 2}",)
        )
    await world.run_tasks()
    headers = world.admin()

    async def page(**params: object) -> tuple[list[str], str | None]:
        answer = await world.client.get(LETTERS, params=params, headers=headers)  # type: ignore[arg-type]  # numbers and booleans
        assert answer.status_code == 200, answer.text
        body = answer.json()
        return [item["id"] for item in body["items"]], body["next_cursor"]

    everything, end = await page()
    assert (len(everything), end) == (5, None)
    first, cursor = await page(limit=3)
    second, end = await page(limit=3, cursor=cursor)
    assert (first + second, end) == (everything, None)
    assert len((await page(job="job.0"))[0]) == 3
    await world.client.post(f"{LETTERS}/{everything[0]}/replay", headers=headers)
    assert (await page())[0] == everything[1:]
    assert (await page(open_only="false"))[0] == everything

    missing = await world.client.post(f"{LETTERS}/{uuid.uuid4()}/replay", headers=headers)
    assert (missing.status_code, missing.json()["kind"]) == (404, "dead_letter")
    for stranger in (ada.headers, world.admin(aal="aal1"), {}):
        refused = await world.client.get(LETTERS, headers=stranger)
        assert refused.status_code == (401 if not stranger else 403)
        refused = await world.client.post(f"{LETTERS}/{everything[1]}/replay", headers=stranger)
        assert refused.status_code == (401 if not stranger else 403)
