"""Who is served next."""

import asyncio

from core.catalog import service as catalog
from core.generations.pipeline.types import CallIntent
from tests.harness.pipeline import PhotoOwner, PipelineHarness
from tests.integration.generations.conftest import OpenPipeline


async def drain(pipeline: PipelineHarness) -> list[CallIntent]:
    """One call after the other until nobody waits."""
    served = []
    while opened := await pipeline.open_calls():
        served += opened
    return served


async def test_one_user_with_many_does_not_hold_up_the_others(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(provider_account_slots=100) as pipeline:
        hog = await pipeline.person(30)
        for _ in range(20):
            await hog.start()
        others = [await pipeline.person() for _ in range(5)]
        for other in others:
            await other.start()
        served = [call.user_id for call in await drain(pipeline)]
        assert set(served[:6]) == {hog.id, *(other.id for other in others)}
        assert served[6:] == [hog.id] * 19


async def test_users_take_turns(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(provider_account_slots=100) as pipeline:
        people = [await pipeline.person() for _ in range(3)]
        for person in people:
            for _ in range(4):
                await person.start()
        served = [call.user_id for call in await drain(pipeline)]
        for turn in range(4):
            assert set(served[turn * 3 : turn * 3 + 3]) == {person.id for person in people}
        assert served[:3] == served[3:6] == served[6:9], "whoever waited longest"


async def test_many_calls_at_once_are_as_fair(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(provider_account_slots=100) as pipeline:
        hog, other = await pipeline.person(30), await pipeline.person()
        for _ in range(10):
            await hog.start()
        await other.start()
        served = [call.user_id for call in await pipeline.open_calls(limit=4)]
        assert set(served[:2]) == {hog.id, other.id}


async def test_own_work_is_served_in_its_order(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    made = [await ada.start() for _ in range(3)]
    assert [str(call.generation_id) for call in await drain(pipeline)] == made


async def test_interactive_work_goes_before_batches(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(provider_account_slots=100) as pipeline:
        ada, bob = await pipeline.person(), await pipeline.person()
        batch = [await bob.start(priority="batch") for _ in range(3)]
        quick = [await ada.start() for _ in range(3)]
        served = [str(call.generation_id) for call in await drain(pipeline)]
        assert served[:3] == quick
        assert set(served[3:]) == set(batch)


async def test_every_fourth_ticket_is_the_batch_lines(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(provider_account_slots=100) as pipeline:
        ada, bob = await pipeline.person(20), await pipeline.person(20)
        batch = [await bob.start(priority="batch") for _ in range(4)]
        quick = [await ada.start() for _ in range(9)]
        served = [str(call.generation_id) for call in await drain(pipeline)]
        assert [number for number, each in enumerate(served) if each in batch] == [3, 7, 11, 12]
        assert [each for each in served if each in quick] == quick


async def test_what_has_begun_goes_before_what_has_not(
    pipeline: PipelineHarness, ada: PhotoOwner, bob: PhotoOwner
) -> None:
    """Its time of working runs while it waits for another attempt."""
    await pipeline.fault("result_error", times=1, status=500, type="internal_server_error")
    begun = await ada.start()
    await pipeline.submit()
    for _ in range(3):
        await bob.start()
    await pipeline.run_tasks("provider_call.collect")
    assert pipeline.state(begun) == "queued"
    pipeline.pass_backoff()
    (call,) = await pipeline.open_calls()
    assert str(call.generation_id) == begun


async def test_a_ticket_serves_the_fairest_not_its_own(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    bob = await pipeline.person()
    for _ in range(2):
        await bob.start()
    mine = await ada.start()
    await pipeline.open_calls()  # bob has just been served
    bobs_ticket = next(task for task in pipeline.tasks() if str(task["id"]) != mine)
    await pipeline.run_one(bobs_ticket["id"])
    assert pipeline.state(mine) != "queued"


async def test_what_waits_for_another_attempt_holds_up_nobody(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    waiting = await ada.start()
    await pipeline.move(
        "update app.generations set available_at = app.now() + interval '9 minutes' where id = %s",
        (waiting,),
    )
    ready = await ada.start()
    assert [str(call.generation_id) for call in await drain(pipeline)] == [ready]
    pipeline.clock.advance(minutes=9)
    assert [str(call.generation_id) for call in await drain(pipeline)] == [waiting]


async def test_a_cancelled_one_holds_up_nobody(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    made = [await ada.start() for _ in range(3)]
    for cancelled in made[:2]:
        await ada.post(f"/v1/generations/{cancelled}/cancel")
    assert [str(call.generation_id) for call in await drain(pipeline)] == made[2:]
    assert pipeline.database.rows("select * from app.lines") == [], "nobody waits any more"
    again = await ada.start()
    assert [str(call.generation_id) for call in await drain(pipeline)] == [again]


async def test_another_providers_crowd_holds_up_nobody(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """At the head of the line stand those who wait for a provider that nobody serves."""
    pipeline.database.rows(
        "insert into app.operations (slug, version, title, description, lane, cost_credits, steps,"
        " output_rule, params_schema)"
        " select 'elsewhere', 1, title, description, lane, cost_credits, jsonb_set(steps,"
        " '{0,provider}', '\"other\"'), output_rule, params_schema"
        " from app.operations where slug = 'cutout'"
    )
    catalog.invalidate_cache()
    for _ in range(12):
        person = await pipeline.person()
        await person.start("elsewhere")
    mine = await ada.start()
    assert [str(call.generation_id) for call in await pipeline.open_calls(limit=5)] == [mine]
    waiting = pipeline.database.rows("select line, count(*) from app.lines group by line")
    assert [(row["line"], row["count"]) for row in waiting] == [("interactive:other", 12)]


async def test_two_dispatchers_never_open_two_calls(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(provider_account_slots=6) as pipeline:
        people = [await pipeline.person() for _ in range(4)]
        for person in people:
            for _ in range(3):
                await person.start()
        taken = await asyncio.gather(*(pipeline.open_calls(limit=4) for _ in range(6)))
        ids = [call.generation_id for calls in taken for call in calls]
        assert len(ids) == len(set(ids)) == 6
        open_calls = pipeline.database.rows("select generation_id from app.provider_calls")
        assert sorted(row["generation_id"] for row in open_calls) == sorted(ids)


async def test_nobody_waits_behind_those_whose_work_ended_in_the_line(
    open_pipeline: OpenPipeline,
) -> None:
    """After an outage whatever waited has ended; who comes then is served by the next ticket."""
    async with open_pipeline(provider_account_slots=100) as pipeline:
        gone = [await (await pipeline.person()).start() for _ in range(20)]
        pipeline.pass_wait(gone[-1])
        await pipeline.sweep()
        assert {pipeline.state(each) for each in gone} == {"failed"}
        new = await (await pipeline.person()).start()
        assert [str(call.generation_id) for call in await pipeline.open_calls()] == [new]
