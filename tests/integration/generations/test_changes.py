"""The change feed: quick while Redis is there, and never needed."""

import asyncio
import uuid

from api.resources import Resources
from core.changes import Change, ChangePublisher
from tests.harness.pipeline import PipelineHarness


def _resources(pipeline: PipelineHarness) -> Resources:
    resources: Resources = pipeline.api.state.resources
    return resources


def change_of(generation_id: uuid.UUID) -> Change:
    return Change(generation_id=generation_id, user_id=uuid.uuid4(), state="running", version=2)


async def test_a_change_wakes_who_waits_for_it(pipeline: PipelineHarness) -> None:
    hub = _resources(pipeline).hub
    mine, theirs = uuid.uuid4(), uuid.uuid4()
    with hub.watch(mine) as changed, hub.watch(theirs) as other:
        await asyncio.sleep(0.7)  # longer than any time-out of a request on this connection
        changed.clear()
        other.clear()
        await pipeline.ctx.changes.publish(change_of(mine))
        async with asyncio.timeout(0.5):
            await changed.wait()
        assert not other.is_set()


async def test_rubbish_on_the_channel_wakes_nobody(pipeline: PipelineHarness) -> None:
    hub, settings = _resources(pipeline).hub, pipeline.ctx.settings
    redis = _resources(pipeline).redis
    mine = uuid.uuid4()
    with hub.watch(mine) as changed:
        await asyncio.sleep(0.1)
        changed.clear()
        for text in ("", "{", "[]", '{"generation_id": 7}', '{"generation_id": []}', "17", "\xff"):
            await redis.publish(f"{settings.redis_prefix}:changes", text)
        await ChangePublisher(settings, redis).publish(None, change_of(mine))
        async with asyncio.timeout(0.5):
            await changed.wait()
