"""Deadlines that fall together end together, and hold nobody's credits for long meanwhile."""

import asyncio
import uuid

import psycopg
import pytest

from core.generations.pipeline import sweep
from tests.harness.ledger import connect, scoped, user_claims
from tests.harness.pipeline import PipelineHarness
from tests.integration.generations.conftest import OpenPipeline


async def _queue(
    pipeline: PipelineHarness, people: int, each: int, *, priority: int = 0
) -> list[uuid.UUID]:
    """Generations of many, all accepted at the same moment; their owners."""
    owners = []
    with connect(pipeline.database.superuser_url) as conn:
        for _ in range(people):
            owner = pipeline.ledger.user(each)
            upload = await pipeline.upload(owner)
            owners.append(owner)
            with scoped(conn, "jewelshot_user", user_claims(owner)):
                conn.execute(
                    "select app.start_generation(gen_random_uuid(), 'cutout', %s, '{}',"
                    " %s::smallint) from generate_series(1, %s)",
                    (upload, priority, each),
                )
    pipeline.database.rows("delete from app.outbox")
    return owners


def _ended(pipeline: PipelineHarness) -> int:
    query = "select count(*) as ended from app.generations where state = 'failed'"
    return int(pipeline.database.row(query)["ended"])


def _pass_all(pipeline: PipelineHarness) -> None:
    pipeline.clock.advance(days=3)


async def test_one_tick_ends_all_that_is_due(pipeline: PipelineHarness) -> None:
    """And no transaction ends more than some of them: its people's credits are locked that long."""
    owners = await _queue(pipeline, 30, 20)
    _pass_all(pipeline)
    assert await pipeline.sweep() == 600
    assert _ended(pipeline) == 600
    rounds = pipeline.database.rows(
        "select count(*) as ended from app.events where type = 'generation.failed'"
        " group by created_at order by 1"
    )
    assert len(rounds) >= 600 / 50
    assert max(row["ended"] for row in rounds) <= 50
    assert {pipeline.ledger.balance(owner)[:2] for owner in owners} == {(20, 0)}


async def test_whose_credits_are_locked_is_waited_for_by_nobody(
    pipeline: PipelineHarness,
) -> None:
    held, *others = await _queue(pipeline, 5, 30)
    _pass_all(pipeline)
    with psycopg.connect(pipeline.database.superuser_url) as purchase:
        purchase.execute("select app.lock_account(%s)", (held,))
        async with asyncio.timeout(10):
            assert await pipeline.sweep() == 4 * 30
        assert pipeline.ledger.balance(held)[:2] == (0, 30)
        purchase.rollback()
    assert {pipeline.ledger.balance(owner)[:2] for owner in others} == {(30, 0)}
    assert await pipeline.sweep() == 30


@pytest.mark.parametrize("processes", [2, 4])
async def test_processes_share_what_is_due(open_pipeline: OpenPipeline, processes: int) -> None:
    async with open_pipeline(database_pool_size=8) as pipeline:
        owners = await _queue(pipeline, 40, 10)
        _pass_all(pipeline)
        ended = await asyncio.gather(*(sweep.sweep(pipeline.ctx) for _ in range(processes)))
        assert sum(ended) == 400
        assert sum(count > 0 for count in ended) >= 2, "none does it alone"
        assert {pipeline.ledger.balance(owner)[:2] for owner in owners} == {(10, 0)}


async def test_a_round_costs_what_is_due_and_not_what_waits(pipeline: PipelineHarness) -> None:
    await _queue(pipeline, 10, 200, priority=1)
    await _queue(pipeline, 10, 5)
    pipeline.clock.advance(minutes=31)  # interactive ones wait for half an hour, batches for days
    pipeline.database.rows("analyze app.generations")
    read = (
        "select seq_tup_read + coalesce(idx_tup_fetch, 0) as read from pg_stat_xact_user_tables"
        " where relname = 'generations'"
    )
    with connect(pipeline.database.superuser_url) as conn, conn.transaction():
        ended = conn.execute("select app.sweep_deadlines(50)").fetchall()
        found = conn.execute(read).fetchone()
    assert len(ended) == 50, "several of one person's, too"
    assert found is not None
    assert found["read"] < 1_000, "some rows for each that ended; 2,000 wait"


async def test_one_that_cannot_be_ended_holds_up_no_other(pipeline: PipelineHarness) -> None:
    """Its money was changed by hand: the proofs name it, and everybody else's clock goes on."""
    owners = await _queue(pipeline, 3, 2)
    (broken, *others) = sorted(owners)
    pipeline.database.rows(
        "update app.reservations set state = 'confirmed', confirmed_amount = amount,"
        " resolved_at = app.now() where user_id = %s",
        (broken,),
    )
    _pass_all(pipeline)
    assert await pipeline.sweep() == 4
    assert {pipeline.ledger.balance(owner)[1] for owner in others} == {0}
    pipeline.database.rows(
        "update app.reservations set state = 'pending', confirmed_amount = null,"
        " resolved_at = null where user_id = %s",
        (broken,),
    )
    assert await pipeline.sweep() == 2, "its own, as soon as its money fits"
