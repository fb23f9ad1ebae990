"""Images that came after their refund: kept seven days, then deleted with their files."""

from psycopg.rows import DictRow

from core.db import Connection, fetch_all
from core.generations.pipeline.tools import PipelineTools
from core.tasks.jobs import DONE, Outcome
from core.tasks.outbox import Task

_IMAGES_AT_ONCE = 100
# Whoever began to buy one at its last moment has paid by then: a statement ends within seconds.
_AFTER_SECONDS = 60


async def expire(tools: PipelineTools, _: Task) -> Outcome:
    """The `late_images.expire` task. Files go first: a row without a file is found again."""
    rows = await tools.db.run(_find_expired)
    keys = [row["result"][name] for row in rows for name in ("storage_key", "thumbnail_key")]
    if keys:
        await tools.storage.delete(tools.settings.storage_bucket_results, keys)

    async def work(conn: Connection) -> None:
        await conn.execute(
            "delete from app.late_images where generation_id = any (%s) and bought_as is null",
            ([row["generation_id"] for row in rows],),
        )

    await tools.db.run(work)
    return DONE


async def _find_expired(conn: Connection) -> list[DictRow]:
    return await fetch_all(
        conn,
        "select generation_id, result from app.late_images"
        " where expires_at <= app.now() - make_interval(secs => %s) and bought_as is null"
        " order by expires_at limit %s",
        (_AFTER_SECONDS, _IMAGES_AT_ONCE),
    )
