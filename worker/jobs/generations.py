"""Jobs of generations: load by id, call one core function."""

from core.generations.pipeline import cancel, late
from core.generations.pipeline import collect as collecting
from core.generations.pipeline import dispatch as dispatching
from core.tasks.outbox import Task
from worker.context import WorkerContext


async def dispatch(ctx: WorkerContext, task: Task) -> None:
    await dispatching.dispatch_for(ctx, task)


async def collect(ctx: WorkerContext, task: Task) -> None:
    await collecting.collect(ctx, task)


async def cancel_call(ctx: WorkerContext, task: Task) -> None:
    await cancel.cancel_call(ctx, task)


async def expire_late_images(ctx: WorkerContext, task: Task) -> None:
    await late.expire(ctx, task)
