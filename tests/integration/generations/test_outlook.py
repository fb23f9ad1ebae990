"""Place in line and expected time: about, and never counted for a request."""

from datetime import datetime
from typing import Any

import msgspec
import pytest

from tests.harness.pipeline import PhotoOwner, PipelineHarness


def seconds_until(pipeline: PipelineHarness, view: dict[str, Any]) -> float:
    expected: datetime = msgspec.convert(view["expected_at"], datetime)
    return (expected - pipeline.now()).total_seconds()


async def test_who_waits_is_told_a_place_and_a_time(pipeline: PipelineHarness) -> None:
    people = [await pipeline.person() for _ in range(3)]
    created = [(await person.create()).json() for person in people for _ in range(2)]
    assert [view["place_in_line"] for view in created[:2]] == [1, 2], "the answer says it too"
    await pipeline.refresh_outlook()
    last = await people[2].read(created[5]["id"])
    assert last["place_in_line"] == 6, "the second of one's own, and three take turns"
    (listed, _) = (await people[2].get("/v1/generations")).json()["items"]
    assert (listed["id"], listed["place_in_line"]) == (created[5]["id"], 6)
    first = await people[0].read(created[0]["id"])
    assert first["place_in_line"] == 3
    assert 0 < seconds_until(pipeline, first) < seconds_until(pipeline, last)


async def test_no_request_counts_the_line(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    mine = await ada.start()
    await pipeline.refresh_outlook()
    for _ in range(3):
        await (await pipeline.person()).start()
    assert (await ada.read(mine))["place_in_line"] == 1, "as it was when it was counted"
    await pipeline.refresh_outlook()
    assert (await ada.read(mine))["place_in_line"] == 4


async def test_its_turn_comes_and_the_time_stays(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """The place goes with the turn; the time is that of the last runs, and never over already."""
    for _ in range(3):
        ended = await ada.start()
        await pipeline.submit()
        pipeline.clock.advance(seconds=40)
        await pipeline.finish(ended)
    await pipeline.fault("never_finishes", times=1)
    running = await ada.start()
    await pipeline.dispatch()
    await pipeline.refresh_outlook()
    view = await ada.read(running)
    assert view["place_in_line"] is None
    assert 30 < seconds_until(pipeline, view) < 60
    pipeline.clock.advance(seconds=100)
    assert -1 < seconds_until(pipeline, await ada.read(running)) <= 0
    await ada.post(f"/v1/generations/{running}/cancel")
    await pipeline.finish(running)
    view = await ada.read(running)
    assert (view["state"], view["place_in_line"], view["expected_at"]) == ("cancelled", None, None)


async def test_fewer_slots_and_longer_runs_take_longer(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    for _ in range(5):
        await (await pipeline.person()).start("scene")
    mine = await ada.start("scene")

    async def told() -> float:
        await pipeline.refresh_outlook()
        return seconds_until(pipeline, await ada.read(mine))

    await pipeline.move("update app.provider_accounts set slots = 4")
    quick = await told()
    await pipeline.move("update app.provider_accounts set slots = 1")
    slow = await told()
    typical = 15  # what the catalogue says of a scene, as long as none has run
    assert slow - typical == pytest.approx(4 * (quick - typical), rel=0.2)


async def test_nobody_is_served_and_no_time_is_told(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    mine = await ada.start()
    await pipeline.move(
        "update app.provider_accounts set breaker_state = 'open', breaker_failures = 1"
    )
    await pipeline.refresh_outlook()
    view = await ada.read(mine)
    assert (view["place_in_line"], view["expected_at"]) == (1, None)


async def test_one_process_refreshes_for_all(pipeline: PipelineHarness) -> None:
    async def refresh(every_seconds: float) -> bool:
        row = pipeline.database.row("select app.refresh_outlook(%s) as done", (every_seconds,))
        return bool(row["done"])

    assert [await refresh(5) for _ in range(3)] == [True, False, False]
    pipeline.clock.advance(seconds=6)
    assert await refresh(5)


@pytest.mark.parametrize(
    "damage",
    [
        "delete from app.lines",
        "update app.lines set serve_at = serve_at + interval '1 hour'",
        "update app.lines set first_no = first_no + 1",
    ],
)
async def test_a_place_that_is_missing_is_noticed_and_mended(
    damage: str, pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    mine = await ada.start()
    await pipeline.move(damage)
    assert await pipeline.open_calls() == []
    assert [row["check_name"] for row in pipeline.database.drift()] == ["generation_out_of_line"]
    pipeline.database.rows("select app.add_task('generations.mend_lines', '{}')")
    await pipeline.run_tasks("generations.mend_lines")
    assert pipeline.database.drift() == []
    assert [str(call.generation_id) for call in await pipeline.open_calls()] == [mine]
