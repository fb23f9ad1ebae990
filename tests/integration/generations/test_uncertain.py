"""When nobody can know whether the provider took it: one image, one charge, and never a loss."""

import pytest

from tests.integration.generations.conftest import OpenWorld
from tests.integration.generations.world import WEBHOOKS, Person, World


@pytest.mark.parametrize("fault", ["accept_then_drop", "accept_then_500"])
async def test_a_lost_answer_is_made_good_by_the_webhook(
    fault: str, world: World, ada: Person
) -> None:
    await world.fault(fault)
    world.wires.hold(WEBHOOKS)
    generation_id = await ada.start()
    await world.dispatch()
    assert world.state(generation_id) == "uncertain"
    assert world.call(generation_id)["state"] == "ambiguous"
    await world.wires.let_through()
    await world.settle()
    assert world.state(generation_id) == "running"

    found = await world.finish(generation_id)
    assert found["state"] == "succeeded"
    assert (found["attempts"], found["resubmissions"]) == (0, 0)
    assert len(await world.paid_calls()) == len(world.calls(generation_id)) == 1
    assert world.balance(ada) == (9, 0)


async def test_after_the_grace_it_is_sent_once_more_and_counted(world: World, ada: Person) -> None:
    await world.fault("accept_then_drop", nth=1)
    await world.fault("webhook_never", nth=1)
    generation_id = await ada.start()
    await world.submit()
    assert world.state(generation_id) == "uncertain"
    assert await world.sweep() == 0, "the grace is not over"
    assert await world.poll() == 0, "there is nothing to look at"
    await world.pass_grace()
    assert await world.sweep() == 1

    found = world.generation(generation_id)
    assert (found["state"], found["resubmissions"], found["attempts"]) == ("queued", 1, 1)
    found = await world.finish(generation_id)
    assert found["state"] == "succeeded"
    first, second = world.calls(generation_id)
    assert (first["state"], first["is_resubmission"]) == ("abandoned", False)
    assert (second["state"], second["is_resubmission"]) == ("succeeded", True)
    assert len(await world.paid_calls()) == 2, "the second is the counted one"
    assert world.balance(ada) == (9, 0), "the user pays one"


async def test_a_worker_killed_before_its_post(world: World, ada: Person) -> None:
    """The call's row is there, nobody sent anything, nobody can know that."""
    generation_id = await ada.start()
    await world.take_tickets()
    assert await world.sweep() == 0, "its lease has not ended"
    await world.pass_leases()
    assert await world.sweep() == 1
    assert (world.state(generation_id), world.call(generation_id)["state"]) == (
        "uncertain",
        "ambiguous",
    )
    await world.pass_grace()
    await world.sweep()
    found = await world.finish(generation_id)
    assert (found["state"], found["resubmissions"]) == ("succeeded", 1)
    assert len(await world.paid_calls()) == 1
    assert world.balance(ada) == (9, 0)


async def test_a_worker_killed_after_its_post(world: World, ada: Person) -> None:
    """The provider has it, the answer was never recorded: its webhook tells."""
    world.wires.hold(WEBHOOKS)
    generation_id = await ada.start()
    (ticket,) = await world.take_tickets()
    await world.post(ticket)
    assert world.call(generation_id)["state"] == "submitting"
    await world.wires.let_through()
    await world.settle()
    assert world.state(generation_id) == "running"
    found = await world.finish(generation_id)
    assert (found["state"], found["resubmissions"]) == ("succeeded", 0)
    assert len(await world.paid_calls()) == 1


async def test_the_webhook_may_overtake_the_answer(world: World, ada: Person) -> None:
    await world.fault("webhook_reordered")
    generation_id = await ada.start()
    await world.dispatch()
    call = world.call(generation_id)
    assert call["webhook_at"] is not None
    assert call["status_url"] is not None, "the late answer fills the empty fields"
    assert (world.state(generation_id), call["state"]) == ("running", "accepted")
    assert (await world.finish(generation_id))["state"] == "succeeded"
    assert len(await world.paid_calls()) == 1


async def test_the_image_may_overtake_the_answer(world: World, ada: Person) -> None:
    """Collected and delivered before the submit's answer is recorded, which changes nothing."""
    generation_id = await ada.start()
    (ticket,) = await world.take_tickets()
    accepted = await world.post(ticket)
    await world.settle()
    await world.run_tasks("provider_call.collect")
    assert world.state(generation_id) == "succeeded"
    await world.record(ticket, accepted)
    call = world.call(generation_id)
    assert (world.state(generation_id), call["state"]) == ("succeeded", "succeeded")
    assert call["next_poll_at"] is None
    await world.run_tasks()
    assert world.balance(ada) == (9, 0)


async def test_the_first_call_may_win_after_all(world: World, ada: Person) -> None:
    """Its webhook comes when a second call runs: its image is taken, the second is cancelled."""
    await world.fault("accept_then_drop", nth=1)
    await world.fault("never_finishes", nth=2)
    world.wires.hold(WEBHOOKS)
    generation_id = await ada.start()
    await world.dispatch()
    await world.pass_grace()
    await world.sweep()
    await world.dispatch()
    first, second = world.calls(generation_id)
    assert (first["state"], second["state"]) == ("abandoned", "accepted")
    await world.wires.let_through()
    await world.settle_one(first["id"])
    found = await world.finish(generation_id)

    assert found["state"] == "succeeded"
    assert str(first["id"]) in found["result"]["storage_key"]
    assert world.balance(ada) == (9, 0)
    assert [call["state"] for call in await world.paid_calls()] == ["billed", "cancelled"]
    await world.poll()
    await world.run_tasks()
    assert [call["state"] for call in world.calls(generation_id)] == ["succeeded", "cancelled"]
    assert world.jobs() == []


async def test_the_first_call_may_come_second(world: World, ada: Person) -> None:
    """Its image comes when the second one has been delivered: kept by nobody, charged to nobody."""
    await world.fault("accept_then_drop", nth=1)
    world.wires.hold(WEBHOOKS)
    generation_id = await ada.start()
    await world.dispatch()
    await world.pass_grace()
    await world.sweep()
    await world.dispatch()
    second = world.calls(generation_id)[1]
    await world.wires.let_through(str(second["id"]))
    await world.settle_one(second["id"])
    await world.run_tasks()
    assert world.state(generation_id) == "succeeded"

    await world.wires.let_through()
    await world.settle()
    await world.run_tasks()
    assert [call["state"] for call in world.calls(generation_id)] == ["succeeded", "succeeded"]
    assert [call["state"] for call in await world.paid_calls()] == ["billed", "billed"]
    assert world.balance(ada) == (9, 0)
    assert world.database.rows("select 1 from app.late_images") == []
    assert str(second["id"]) in world.generation(generation_id)["result"]["storage_key"]


async def test_a_failing_rival_decides_nothing(world: World, ada: Person) -> None:
    await world.fault("accept_then_drop", nth=1)
    await world.fault("content_policy", nth=1)
    world.wires.hold(WEBHOOKS)
    generation_id = await ada.start()
    await world.dispatch()
    await world.pass_grace()
    await world.sweep()
    await world.dispatch()
    first = world.calls(generation_id)[0]
    await world.wires.let_through(str(first["id"]))
    await world.settle_one(first["id"])
    await world.run_tasks("provider_call.collect")
    assert world.calls(generation_id)[0]["state"] == "failed"
    await world.wires.let_through()
    assert (await world.finish(generation_id))["state"] == "succeeded"
    assert world.balance(ada) == (9, 0)


async def test_a_provider_that_never_answers_clearly(world: World, ada: Person) -> None:
    """Every answer is lost and no webhook comes: after all attempts it waits for its deadline."""
    await world.fault("accept_then_drop")
    await world.fault("webhook_never")
    generation_id = await ada.start()
    for _ in range(5):
        await world.submit()
        await world.pass_grace()
        await world.sweep()
        await world.hurry()
    assert len(world.calls(generation_id)) == world.ctx.settings.fal_attempts_max
    assert world.state(generation_id) == "uncertain"
    assert world.balance(ada) == (9, 1)
    await world.pass_deadline(generation_id)
    await world.sweep()
    found = world.generation(generation_id)
    assert (found["state"], found["problem"]["code"]) == ("failed", "deadline_exceeded")
    assert world.balance(ada) == (10, 0)


# --- deadlines -----------------------------------------------------------------------------------


async def test_never_started_is_refunded_at_once(world: World, ada: Person) -> None:
    generation_id = await ada.start()
    await world.pass_give_up(generation_id)
    assert await world.dispatch() == 0, "there is no time left to begin"
    assert await world.sweep() == 1
    found = world.generation(generation_id)
    assert (found["state"], found["problem"]["code"]) == ("failed", "deadline_exceeded")
    assert world.balance(ada) == (10, 0)
    assert world.submits() == 0


async def test_never_finished_is_cancelled_there_and_refunded(world: World, ada: Person) -> None:
    await world.fault("never_finishes")
    generation_id = await ada.start()
    await world.dispatch()
    await world.pass_give_up(generation_id)
    await world.sweep()
    assert world.state(generation_id) == "uncertain"
    assert world.balance(ada) == (9, 1), "not yet: it may be paid for"
    assert await world.sweep() == 0, "once"
    found = await world.finish(generation_id)
    assert (found["state"], found["problem"]["code"]) == ("failed", "deadline_exceeded")
    assert world.balance(ada) == (10, 0)
    assert [call["state"] for call in await world.paid_calls()] == ["cancelled"]


async def test_an_image_between_giving_up_and_the_deadline_is_delivered(
    world: World, ada: Person
) -> None:
    await world.fault("cancel_race")
    world.wires.hold(WEBHOOKS)
    generation_id = await ada.start()
    await world.dispatch()
    await world.pass_give_up(generation_id)
    await world.sweep()
    await world.run_tasks("provider_call.cancel")
    await world.wires.let_through()
    await world.settle()
    found = await world.finish(generation_id)
    assert found["state"] == "succeeded"
    assert world.balance(ada) == (9, 0)


async def test_an_image_after_the_refund_is_kept_for_sale(world: World, ada: Person) -> None:
    await world.fault("cancel_race")
    world.wires.hold(WEBHOOKS)
    generation_id = await ada.start()
    await world.dispatch()
    await world.pass_give_up(generation_id)
    await world.sweep()
    await world.run_tasks("provider_call.cancel")
    await world.pass_deadline(generation_id)
    await world.sweep()
    assert (world.state(generation_id), world.balance(ada)) == ("failed", (10, 0))
    assert world.call(generation_id)["state"] == "abandoned"

    await world.wires.let_through()
    await world.settle()
    await world.run_tasks()
    (image,) = world.database.rows("select * from app.late_images")
    assert str(image["generation_id"]) == generation_id
    call = world.call(generation_id)
    assert (call["state"], world.state(generation_id)) == ("succeeded", "failed")
    assert float(call["billable_units"]) == (await world.paid_calls())[0]["billable_units"]
    assert world.balance(ada) == (10, 0)
    bought = await ada.post(f"/v1/generations/{generation_id}/late-image")
    assert (bought.status_code, world.balance(ada)) == (201, (9, 0))


async def test_a_late_failure_changes_nothing(world: World, ada: Person) -> None:
    await world.fault("content_policy")
    generation_id = await ada.start()
    await world.submit()
    await world.pass_deadline(generation_id)
    await world.sweep()
    before = world.generation(generation_id)
    await world.run_tasks()
    assert world.generation(generation_id) == before
    assert world.call(generation_id)["state"] == "failed"
    assert world.database.rows("select 1 from app.late_images") == []


async def test_a_late_first_step_is_no_image(world: World) -> None:
    ada = await world.person()
    generation_id = await ada.start("scene_hd")
    await world.submit()
    await world.pass_deadline(generation_id)
    await world.sweep()
    await world.run_tasks()
    assert world.database.rows("select 1 from app.late_images") == []
    assert world.balance(ada) == (10, 0)
    assert world.submits() == 1


async def test_polling_looks_for_late_images_too(open_world: OpenWorld) -> None:
    async with open_world(fal_webhooks=False) as world:
        ada = await world.person()
        generation_id = await ada.start()
        await world.submit()
        await world.pass_deadline(generation_id)
        await world.sweep()
        assert world.call(generation_id)["state"] == "abandoned"
        assert await world.poll() == 1
        await world.run_tasks()
        assert len(world.database.rows("select 1 from app.late_images")) == 1
