"""What would grow for ever, and when it goes."""

import asyncio

from core import metrics
from core.db import Database
from core.settings import Settings
from tests.harness.database import TestDatabase
from tests.harness.tasks import add_task, list_letters, run_task
from tests.integration.tasks.conftest import open_context


def _bury(database: TestDatabase, job: str, *, replayed: bool) -> None:
    row = database.row(
        "insert into app.dead_letters (task_id, job, args, claims, failures, error, created_at)"
        " values (gen_random_uuid(), %s, '{}', 1, '{}', 'toy', app.now()) returning id",
        (job,),
    )
    if replayed:
        database.rows(
            "update app.dead_letters set replayed_at = app.now(), replayed_as = task_id"
            " where id = %s",
            (row["id"],),
        )


async def test_letters_and_counters_go_when_they_are_of_no_use(
    settings: Settings, database: TestDatabase, db_worker: Database
) -> None:
    async def count(*names: str) -> None:
        taken = [(name, "{}", 1.0) for name in names]
        await db_worker.run(lambda conn: metrics.flush(conn, taken))

    def counted() -> dict[str, float]:
        rows = database.rows("select name, value from app.metric_counters where name like 'toy_%%'")
        return {row["name"]: row["value"] for row in rows}

    async with open_context(settings, db_worker) as ctx:

        async def purge() -> list[str]:
            task_id = await asyncio.to_thread(add_task, database, "housekeeping.purge")
            assert await run_task(ctx, task_id) == "done"
            return [letter["job"] for letter in list_letters(database)]

        _bury(database, "toy.replayed", replayed=True)
        _bury(database, "toy.left", replayed=False)
        await count("toy_old", "toy_used")
        assert await purge() == ["toy.replayed", "toy.left"]
        database.clock.advance(days=60)
        await count("toy_used")
        database.clock.advance(days=31)
        _bury(database, "toy.young", replayed=True)
        assert await purge() == ["toy.left", "toy.young"]
        assert counted() == {"toy_used": 2}
        database.clock.advance(days=300)
        assert await purge() == []
        assert counted() == {}
