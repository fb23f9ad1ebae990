"""Server-sent events: a snapshot, then each change, and an end."""

import asyncio
import contextlib
import time

import pytest
from pydantic import SecretStr

from api.resources import Resources
from api.routes.generation_events import STREAMS_PER_USER_MAX
from tests.harness.pipeline import PhotoOwner, PipelineHarness
from tests.harness.router import Event, EventStream, open_stream
from tests.integration.generations.conftest import OpenPipeline


def follow(
    pipeline: PipelineHarness, person: PhotoOwner, generation_id: str, *, last: int | None = None
) -> contextlib.AbstractAsyncContextManager[EventStream]:
    headers = dict(person.headers)
    if last is not None:
        headers["Last-Event-ID"] = str(last)
    return open_stream(pipeline.api, f"/v1/generations/{generation_id}/events", headers)


def _states(events: list[Event]) -> list[str]:
    return [event.data["state"] for event in events if event.data is not None]


def _open_streams(pipeline: PipelineHarness) -> int:
    resources: Resources = pipeline.api.state.resources
    return resources.streams.total()


async def _nothing_open(pipeline: PipelineHarness) -> None:
    async with asyncio.timeout(2):
        while _open_streams(pipeline):  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0.01)


async def test_a_snapshot_then_each_change_then_the_end(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await ada.start("packshot")
    await pipeline.refresh_outlook()
    async with follow(pipeline, ada, generation_id) as stream:
        assert (stream.status, stream.headers["content-type"]) == (
            200,
            "text/event-stream; charset=utf-8",
        )
        assert stream.headers["cache-control"] == "no-store"
        assert (await stream.next()).comment == "hello"
        snapshot = await stream.next()
        assert (snapshot.id, snapshot.event) == (1, "generation")
        assert snapshot.data is not None
        assert (snapshot.data["id"], snapshot.data["state"]) == (generation_id, "queued")
        assert (snapshot.data["place_in_line"], snapshot.data["expected_at"] is None) == (1, False)

        (intent,) = await pipeline.open_calls()
        ticketed = await ada.get(f"/v1/generations/{generation_id}")
        assert ticketed.json()["state"] == "submitting"
        await pipeline.ctx.changes.publish(intent.change)
        assert (await stream.next(seconds=1)).id == 2

        pipeline.pass_leases()
        await pipeline.sweep()
        pipeline.pass_grace()
        await pipeline.sweep()
        await pipeline.finish(generation_id)
        events = await stream.rest()

    ids = [event.id for event in events if event.id is not None]
    assert ids == sorted(set(ids)), "ids rise"
    assert ids[0] > 2
    assert ids[-1] == pipeline.generation(generation_id)["version"]
    # State, not history: a state between two reads may be missing, never the end.
    seen = _states(events)
    all_states = iter(pipeline.states(generation_id)[2:])
    assert all(state in all_states for state in seen), "in order"
    last = events[-1]
    assert last.data is not None
    assert (last.data["state"], last.data["money"]) == ("succeeded", "charged")
    assert last.data["image"]["width"] == 1024
    assert _open_streams(pipeline) == 0


async def test_changes_arrive_at_once(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    generation_id = await ada.start("packshot")
    async with follow(pipeline, ada, generation_id) as stream:
        await stream.next()
        await stream.next()
        await asyncio.sleep(0.3)
        started = time.monotonic()
        await ada.post(f"/v1/generations/{generation_id}/cancel")
        (event,) = await stream.rest()
        assert time.monotonic() - started < 0.5, "woken, not by the read that comes by itself"
    assert _states([event]) == ["cancelled"]


async def test_what_was_seen_is_not_repeated(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    generation_id = await ada.start()
    async with follow(pipeline, ada, generation_id, last=1) as stream:
        assert (await stream.next()).comment == "hello"
        await pipeline.finish(generation_id)
        events = await stream.rest()
    assert all(event.id is None or event.id > 1 for event in events)
    assert _states(events)[-1] == "succeeded"


async def test_who_missed_something_gets_the_present(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await ada.start()
    await pipeline.finish(generation_id)
    for last in (1, 4, None):
        async with follow(pipeline, ada, generation_id, last=last) as stream:
            hello, only = await stream.rest()
        assert hello.comment == "hello"
        assert (only.id, _states([only])) == (5, ["succeeded"])


async def test_who_saw_the_end_need_not_come_back(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """https://html.spec.whatwg.org/multipage/server-sent-events.html: 204 stops reconnecting."""
    generation_id = await ada.start()
    await pipeline.finish(generation_id)
    async with follow(pipeline, ada, generation_id, last=5) as stream:
        assert (stream.status, stream.body) == (204, b"")


@pytest.mark.parametrize("last", ["x", "-1", "", "9" * 5000, "²"])
async def test_a_strange_last_event_id(
    last: str, pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await ada.start()
    path = f"/v1/generations/{generation_id}/events"
    headers = {**ada.headers, "Last-Event-ID": last.encode("utf-8").decode("latin-1")}
    async with open_stream(pipeline.api, path, headers) as stream:
        assert stream.status in {200, 400}


async def test_a_quiet_line_is_kept_open(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(event_heartbeat_seconds=0.1) as pipeline:
        ada = await pipeline.person()
        async with follow(pipeline, ada, await ada.start()) as stream:
            events = [await stream.next(seconds=1) for _ in range(4)]
    assert [event.comment for event in events] == ["hello", None, "heartbeat", "heartbeat"]


async def test_a_stream_ends_with_its_token(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    generation_id = await ada.start()
    token = pipeline.issuer.token(ada.id, exp=int(time.time()) + 2)
    ada.headers = {"Authorization": f"Bearer {token}"}
    async with follow(pipeline, ada, generation_id) as stream:
        events = await stream.rest(seconds=9)
    assert _states(events) == ["queued"]
    assert _open_streams(pipeline) == 0


async def test_streams_are_counted(
    pipeline: PipelineHarness, ada: PhotoOwner, bob: PhotoOwner
) -> None:
    mine, theirs = await ada.start(), await bob.start()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(STREAMS_PER_USER_MAX):
            stream = await stack.enter_async_context(follow(pipeline, ada, mine))
            assert stream.status == 200
        # None of them holds a connection of the pool.
        assert (await ada.get(f"/v1/generations/{mine}")).status_code == 200
        refused = await ada.get(f"/v1/generations/{mine}/events")
        problem = refused.json()
        assert (refused.status_code, problem["reason"], problem["limit"]) == (
            429,
            "event_streams",
            STREAMS_PER_USER_MAX,
        )
        assert refused.headers["retry-after"]
        async with follow(pipeline, bob, theirs) as other:
            assert other.status == 200
    await _nothing_open(pipeline)
    async with follow(pipeline, ada, mine) as again:
        assert again.status == 200


async def test_who_leaves_is_not_counted(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    generation_id = await ada.start()
    async with follow(pipeline, ada, generation_id) as stream:
        stream.leave()  # before anything was read
    async with follow(pipeline, ada, generation_id) as stream:
        await stream.next()
        assert _open_streams(pipeline) <= 2
    await _nothing_open(pipeline)


async def test_no_more_streams_when_many_connect_at_once(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    generation_id = await ada.start()

    everybody = asyncio.Barrier(STREAMS_PER_USER_MAX + 15)

    async def hold() -> bool:
        async with follow(pipeline, ada, generation_id) as stream:
            await everybody.wait()
            await asyncio.sleep(0.2)
            assert _open_streams(pipeline) <= STREAMS_PER_USER_MAX
            assert stream.status in {200, 429}
            return stream.status == 200 and bool(stream.body)

    held = await asyncio.gather(*(hold() for _ in range(STREAMS_PER_USER_MAX + 15)))
    assert sum(held) == STREAMS_PER_USER_MAX
    await _nothing_open(pipeline)


async def test_without_redis_it_only_takes_longer(open_pipeline: OpenPipeline) -> None:
    away = SecretStr("redis://127.0.0.1:9")
    async with open_pipeline(api={"redis_url": away}) as pipeline:
        ada = await pipeline.person()
        generation_id = await ada.start()
        async with follow(pipeline, ada, generation_id) as stream:
            await stream.next()
            assert _states([await stream.next()]) == ["queued"]
            await pipeline.finish(generation_id)
            events = await stream.rest()
        assert _states(events)[-1] == "succeeded"
