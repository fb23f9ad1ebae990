"""A provider that refuses an account, a key or one request: what pauses, and what ends the pause.

With the shipped times, and many calls at once.
"""

import asyncio
from typing import Any

import msgspec
import pytest

from core.generations.pipeline.types import CallIntent
from core.generations.providers import accounts
from core.generations.providers.registry import open_providers
from tests.harness.pipeline import SCENE_ENDPOINT, PhotoOwner, PipelineHarness
from tests.harness.pipeline_setup import fal_key
from tests.integration.generations.conftest import OpenPipeline

TWO_KEYS = (fal_key(1), fal_key(2))
TWO_ACCOUNTS = (fal_key(1, "one"), fal_key(2, "two"))


def breaker(pipeline: PipelineHarness, name: str = "main") -> tuple[str, int]:
    account = pipeline.account(name)
    return account["breaker_state"], account["breaker_failures"]


def pause_seconds(pipeline: PipelineHarness) -> float:
    until = pipeline.account()["breaker_until"]
    return float((until - pipeline.now()).total_seconds())


def key(pipeline: PipelineHarness, number: int) -> dict[str, Any]:
    return pipeline.database.row(
        "select * from app.provider_keys where name = %s", (f"FAL_AI_KEY_{number}",)
    )


def statuses(pipeline: PipelineHarness) -> list[int | None]:
    return [
        row["http_status"]
        for row in pipeline.database.rows(
            "select http_status from app.provider_calls where state = 'refused'"
        )
    ]


async def open_many(pipeline: PipelineHarness, count: int) -> list[CallIntent]:
    """Calls that are open at the same moment; one person is served one at a time."""
    calls: list[CallIntent] = []
    while len(calls) < count:
        opened = await pipeline.open_calls(limit=count - len(calls))
        assert opened
        calls += opened
    return calls


# --- the account ---------------------------------------------------------------------------------


async def test_one_lock_is_one_pause_however_many_calls_it_meets(
    open_pipeline: OpenPipeline,
) -> None:
    async with open_pipeline(provider_account_slots=40) as pipeline:
        ada = await pipeline.person(50)
        for _ in range(48):
            await ada.start()
        await pipeline.outage("locked", account="main", routes=["submit"])
        calls = await open_many(pipeline, 40)
        await asyncio.gather(*(pipeline.send(call) for call in calls))
        assert statuses(pipeline) == [403] * 40
        assert breaker(pipeline) == ("open", 1)
        assert pause_seconds(pipeline) <= 60
        assert await pipeline.dispatch() == 0

        await pipeline.heal()
        pipeline.pass_breaker()
        assert await pipeline.dispatch() == 1, "the probe"
        assert breaker(pipeline) == ("closed", 0)
        assert pipeline.ctx.dispatch_wanted.is_set()
        assert await pipeline.dispatch() == 39


async def test_polls_and_results_neither_open_nor_lengthen(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(provider_webhooks=False) as pipeline:
        ada = await pipeline.person()
        ids = [await ada.start() for _ in range(4)]
        await pipeline.submit()
        await pipeline.outage("locked", account="main")
        for _ in range(3):
            await pipeline.poll()
        assert breaker(pipeline) == ("closed", 0)

        await pipeline.heal()
        await pipeline.poll()
        await pipeline.outage("locked", account="main")
        for _ in range(3):
            await pipeline.run_tasks("provider_call.collect")
            pipeline.pass_backoff()
        assert breaker(pipeline) == ("closed", 0)
        await pipeline.heal()
        for generation_id in ids:
            assert (await pipeline.finish(generation_id))["state"] == "succeeded"
        assert len(await pipeline.paid_calls()) == 4


async def test_only_the_probes_refusal_doubles_the_pause(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(provider_account_slots=10) as pipeline:
        ada = await pipeline.person()
        for _ in range(6):
            await ada.start()
        early = await open_many(pipeline, 5)
        await pipeline.outage("locked", account="main", routes=["submit"])
        await pipeline.send(early[0])
        assert breaker(pipeline) == ("open", 1)
        await pipeline.send(early[1])
        pipeline.pass_breaker()
        (probe,) = await pipeline.open_calls(limit=10)
        await pipeline.send(early[2])
        assert breaker(pipeline) == ("half_open", 1), "not the probe's answer"
        await pipeline.send(probe)
        assert breaker(pipeline) == ("open", 2)
        assert 110 < pause_seconds(pipeline) <= 120
        await pipeline.send(early[3])
        assert breaker(pipeline) == ("open", 2)


async def test_an_answer_from_before_the_incident_ended_is_history(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    for _ in range(3):
        await ada.start()
    first, slow = await open_many(pipeline, 2)
    await pipeline.fault("locked_account", times=1)
    await pipeline.send(first)
    pipeline.pass_breaker()
    (probe,) = await pipeline.open_calls()
    await pipeline.send(probe)
    assert breaker(pipeline) == ("closed", 0)
    await pipeline.fault("locked_account", times=1)
    await pipeline.send(slow)
    assert breaker(pipeline) == ("closed", 0)


async def test_a_healed_account_closes_under_little_traffic(open_pipeline: OpenPipeline) -> None:
    """The other one has no load, and would always be chosen."""
    async with open_pipeline(fal_keys=TWO_ACCOUNTS) as pipeline:
        ada = await pipeline.person()
        await pipeline.fault("locked_account", times=1)
        generation_id = await ada.start()
        await pipeline.dispatch()
        locked = "one" if breaker(pipeline, "one")[0] == "open" else "two"
        assert (await pipeline.finish(generation_id))["state"] == "succeeded"
        assert breaker(pipeline, locked) == ("open", 1)
        pipeline.pass_breaker()
        assert (await pipeline.finish(await ada.start()))["state"] == "succeeded"
        assert breaker(pipeline, locked) == ("closed", 0)


@pytest.mark.parametrize("fault", ["submit_html_error", "rate_limited", "accept_then_500"])
async def test_a_probe_that_tells_nothing_is_followed_by_another(
    fault: str, pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("locked_account", nth=1)
    await pipeline.fault(fault, nth=2)
    await pipeline.fault("webhook_never")
    for _ in range(3):
        await ada.start()
    (first,) = await pipeline.open_calls()
    await pipeline.send(first)
    pipeline.pass_breaker()
    (probe,) = await pipeline.open_calls(limit=5)
    await pipeline.send(probe)
    assert breaker(pipeline) == ("open", 1)
    assert pause_seconds(pipeline) <= 5
    pipeline.pass_breaker()
    pipeline.pass_cooldown()
    (second,) = await pipeline.open_calls(limit=5)
    await pipeline.send(second)
    assert breaker(pipeline) == ("closed", 0)


async def test_a_probe_that_is_refused_for_its_input_was_let_in(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("locked_account", nth=1)
    await pipeline.fault("submit_4xx", nth=2, status=422)
    await ada.start()
    await ada.start()
    (first,) = await pipeline.open_calls()
    await pipeline.send(first)
    pipeline.pass_breaker()
    (probe,) = await pipeline.open_calls(limit=5)
    await pipeline.send(probe)
    assert breaker(pipeline) == ("closed", 0)


async def test_a_probe_that_cannot_be_sent_is_followed_by_another(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    """Its order was changed by hand, or has no photo: the others do not wait for its lease."""
    await pipeline.fault("locked_account", nth=1)
    for _ in range(3):
        await ada.start()
    (first,) = await pipeline.open_calls()
    await pipeline.send(first)
    pipeline.pass_breaker()
    (probe,) = await pipeline.open_calls(limit=5)
    await pipeline.send(msgspec.structs.replace(probe, params={"no_such": 1}))
    assert pipeline.state(str(probe.generation_id)) == "failed"
    assert breaker(pipeline) == ("open", 1)
    assert pause_seconds(pipeline) <= 5


# --- the key -------------------------------------------------------------------------------------


async def test_a_revoked_key_leaves_its_account_to_the_other(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(fal_keys=TWO_KEYS, provider_account_slots=8) as pipeline:
        ada = await pipeline.person(20)
        await pipeline.outage("unauthorized", key="key-1")
        for _ in range(10):
            assert (await pipeline.finish(await ada.start()))["state"] == "succeeded"
        assert set(statuses(pipeline)) == {401}
        assert len(statuses(pipeline)) <= 4, "the pause is as long as it has been refused"
        assert breaker(pipeline) == ("closed", 0)
        assert key(pipeline, 1)["refused_at"] is not None
        assert key(pipeline, 2)["refused_at"] is None

        pipeline.clock.advance(minutes=30)
        await pipeline.finish(await ada.start())
        tries = len(statuses(pipeline))
        pipeline.clock.advance(minutes=8)
        await pipeline.finish(await ada.start())
        assert len(statuses(pipeline)) == tries
        pipeline.clock.advance(minutes=3)
        await pipeline.finish(await ada.start())
        assert len(statuses(pipeline)) == tries + 1, "tried every ten minutes at last"
        await pipeline.heal()
        pipeline.clock.advance(minutes=11)
        await pipeline.finish(await ada.start())
        assert key(pipeline, 1)["refused_at"] is None
        assert len(statuses(pipeline)) == tries + 1


async def test_a_stray_refusal_of_the_only_key_passes_soon(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(fal_keys=TWO_KEYS[:1]) as pipeline:
        ada = await pipeline.person()
        await pipeline.outage("unauthorized", key="key-1", times=1)
        generation = await ada.start()
        (call,) = await pipeline.open_calls()
        await pipeline.send(call)
        assert await pipeline.open_calls() == []
        pipeline.clock.advance(seconds=16)
        assert (await pipeline.finish(generation))["state"] == "succeeded"
        assert key(pipeline, 1)["refused_at"] is None


async def test_many_calls_with_a_revoked_key(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(fal_keys=TWO_KEYS, provider_account_slots=8) as pipeline:
        ada = await pipeline.person()
        await pipeline.outage("unauthorized", key="key-1")
        ids = [await ada.start() for _ in range(8)]
        calls = await open_many(pipeline, 8)
        await asyncio.gather(*(pipeline.send(call) for call in calls))
        assert statuses(pipeline) == [401] * 4, "those that were on their way"
        assert breaker(pipeline) == ("closed", 0)
        for generation_id in ids:
            assert (await pipeline.finish(generation_id))["state"] == "succeeded"
        assert statuses(pipeline) == [401] * 4


async def test_an_account_without_a_usable_key_counts_as_open(
    open_pipeline: OpenPipeline,
) -> None:
    async with open_pipeline() as pipeline:
        ada = await pipeline.person()
        await pipeline.outage("unauthorized", key="key-1")
        generation_id = await ada.start()
        assert await pipeline.dispatch() == 1
        assert await pipeline.dispatch() == 0
        assert pipeline.state(generation_id) == "queued"
        figures = (await pipeline.client.get("/metrics")).text
        assert 'jewelshot_provider_breaker_open{account="main"} 1' in figures
        assert 'jewelshot_provider_keys_refused{account="main"} 1' in figures
        ready = (await pipeline.client.get("/readyz")).json()
        assert ready["checks"]["provider_accounts"]["status"] == "degraded"
        assert ready["checks"]["provider_accounts"]["facts"]["refused_keys"] == 1
        path = "/v1/admin/provider-accounts"
        listed = await pipeline.client.get(path, headers=pipeline.admin())
        assert listed.json()["items"][0]["keys"][0]["refused_at"] is not None
        await pipeline.heal()
        pipeline.clock.advance(minutes=11)
        assert (await pipeline.finish(generation_id))["state"] == "succeeded"


@pytest.mark.parametrize("is_removed", [True, False])
async def test_the_accounts_other_key_fetches_what_a_dead_one_ordered(
    open_pipeline: OpenPipeline, *, is_removed: bool
) -> None:
    """A leaked key is taken away at once, with calls in flight that are paid for."""
    async with open_pipeline(fal_keys=TWO_KEYS, provider_webhooks=False) as pipeline:
        ada = await pipeline.person()
        ids = [await ada.start() for _ in range(4)]
        await pipeline.submit()
        if is_removed:
            settings = pipeline.ctx.settings.model_copy(update={"fal_keys": (fal_key(2),)})
            pipeline.ctx.providers = open_providers(settings, pipeline.ctx.http)
        await pipeline.outage("unauthorized", key="key-1")
        for generation_id in ids:
            assert (await pipeline.finish(generation_id))["state"] == "succeeded"
        assert len(await pipeline.paid_calls()) == 4
        assert breaker(pipeline) == ("closed", 0)


# --- one request ---------------------------------------------------------------------------------


async def test_a_403_for_one_persons_requests_stops_nobody_else(
    open_pipeline: OpenPipeline,
) -> None:
    async with open_pipeline(provider_account_slots=8) as pipeline:
        bob, ada = await pipeline.person(), await pipeline.person()
        await pipeline.fault("locked_account", contains=str(bob.id))
        refused = await bob.start()
        await pipeline.dispatch()
        assert breaker(pipeline) == ("open", 1), "nobody can know better yet"
        pipeline.pass_breaker()
        good = await ada.start()
        await pipeline.dispatch()
        assert (breaker(pipeline), pipeline.state(good)) == (("closed", 0), "running")
        await pipeline.dispatch()
        found = pipeline.generation(refused)
        assert (found["state"], found["ending"]) == ("failed", "request_refused")
        assert breaker(pipeline) == ("closed", 0)
        assert pipeline.balance(bob) == (10, 0)

        others = [await bob.start() for _ in range(3)]
        await pipeline.dispatch()
        assert breaker(pipeline) == ("closed", 0)
        await ada.start()
        await pipeline.dispatch()
        pipeline.pass_backoff()
        await pipeline.dispatch()
        assert {pipeline.generation(each)["ending"] for each in others} == {"request_refused"}
        assert breaker(pipeline) == ("closed", 0)
        assert (await pipeline.finish(good))["state"] == "succeeded"


async def test_one_order_does_not_shut_one_account_after_the_other(
    open_pipeline: OpenPipeline,
) -> None:
    async with open_pipeline(fal_keys=TWO_ACCOUNTS) as pipeline:
        ada, bob = await pipeline.person(), await pipeline.person()
        for _ in range(2):
            await ada.start()
        await pipeline.dispatch()
        await pipeline.fault("locked_account", contains=str(bob.id))
        refused = await bob.start()
        for _ in range(3):
            await pipeline.dispatch()
        states = sorted(breaker(pipeline, name) for name in ("one", "two"))
        assert states == [("closed", 0), ("open", 1)]
        good = await ada.start()
        await pipeline.dispatch()
        assert pipeline.state(good) == "running"
        pipeline.pass_backoff()
        await pipeline.dispatch()
        assert pipeline.generation(refused)["ending"] == "request_refused"


async def test_accounts_whose_keys_are_gone_are_neither_well_nor_ill(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.outage("locked", account="main", routes=["submit"])
    await ada.start()
    await pipeline.dispatch()
    shut = 'jewelshot_provider_breaker_open{account="main"} 1'
    assert shut in (await pipeline.client.get("/metrics")).text
    pipeline.clock.advance(minutes=4)
    ctx = pipeline.ctx
    await ctx.db.run(lambda conn: accounts.hold_keys(conn, ctx.providers))
    pipeline.clock.advance(minutes=4)
    assert shut in (await pipeline.client.get("/metrics")).text
    pipeline.clock.advance(minutes=2)
    assert "jewelshot_provider_breaker_open" not in (await pipeline.client.get("/metrics")).text
    ready = (await pipeline.client.get("/readyz")).json()["checks"]["provider_accounts"]
    assert (ready["status"], ready["facts"]["known"]) == ("degraded", 0)


async def test_another_generation_is_the_probe_after_one_was_refused(
    open_pipeline: OpenPipeline,
) -> None:
    """Also one of the same person, and one that came a minute later."""
    async with open_pipeline() as pipeline:
        bob = await pipeline.person()
        refused = await bob.start("scene")
        await pipeline.fault("locked_account", endpoint=SCENE_ENDPOINT)
        await pipeline.dispatch()
        later = await bob.start()
        assert breaker(pipeline) == ("open", 1)
        pipeline.pass_breaker()
        (probe,) = await pipeline.open_calls(limit=5)
        assert str(probe.generation_id) == later
        await pipeline.send(probe)
        assert breaker(pipeline) == ("closed", 0)
        await pipeline.dispatch()
        assert pipeline.generation(refused)["ending"] == "request_refused"


async def test_a_lock_that_comes_back_is_a_lock(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(provider_account_slots=8) as pipeline:
        people = [await pipeline.person() for _ in range(4)]
        outage = await pipeline.outage("locked", account="main", routes=["submit"])
        for person in people:
            await person.start()
        await pipeline.dispatch()
        await pipeline.heal()
        pipeline.pass_breaker()
        await pipeline.dispatch()
        assert breaker(pipeline) == ("closed", 0), outage
        await pipeline.outage("locked", account="main", routes=["submit"])
        again = [await person.start() for person in people]
        await pipeline.dispatch()
        assert breaker(pipeline) == ("open", 1)
        assert {pipeline.state(each) for each in again} == {"queued"}


# --- rates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [{}, {"retry_after": 40}])
async def test_a_limit_of_polls_slows_polls_only(
    open_pipeline: OpenPipeline, args: dict[str, Any]
) -> None:
    async with open_pipeline(provider_webhooks=False) as pipeline:
        ada, bob = await pipeline.person(), await pipeline.person()
        for _ in range(3):
            await ada.start()
        await pipeline.submit()
        await pipeline.outage("rate_limited", routes=["status", "result"], args=args)
        assert await pipeline.poll() == 3
        assert pipeline.account()["cooldown_until"] is None
        pause = (pipeline.account()["looks_paused_until"] - pipeline.now()).total_seconds()
        assert 0 < pause <= 1.2 * args.get("retry_after", 5)
        pipeline.clock.advance(seconds=max(0.0, 20 - pause))
        other = await bob.start()
        assert await pipeline.dispatch() == 1
        assert pipeline.state(other) == "running"


async def test_limited_polls_wait_as_long_as_they_are_asked_to(
    open_pipeline: OpenPipeline,
) -> None:
    async with open_pipeline(provider_webhooks=False) as pipeline:
        ada = await pipeline.person()
        generation_id = await ada.start()
        await pipeline.submit()
        await pipeline.outage("rate_limited", routes=["status"], args={"retry_after": 300})
        assert await pipeline.poll() == 1
        pipeline.clock.advance(minutes=4)
        assert await pipeline.poll() == 0
        await pipeline.heal()
        pipeline.clock.advance(minutes=3)
        assert (await pipeline.finish(generation_id))["state"] == "succeeded"


# --- by hand -------------------------------------------------------------------------------------


async def test_an_admin_closes_a_breaker(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    await pipeline.outage("locked", account="main", routes=["submit"])
    generation_id = await ada.start()
    await pipeline.dispatch()
    await pipeline.heal()
    assert await pipeline.dispatch() == 0
    path = f"/v1/admin/provider-accounts/{pipeline.account()['id']}/close-breaker"
    body = {"reason": "Topped up by hand."}
    for headers in (ada.headers, pipeline.admin(aal="aal1")):
        assert (await pipeline.client.post(path, json=body, headers=headers)).status_code == 403
    admin = pipeline.admin()
    assert (await pipeline.client.post(path, json={}, headers=admin)).status_code == 400
    missing = path.replace(str(pipeline.account()["id"]), str(ada.id))
    assert (await pipeline.client.post(missing, json=body, headers=admin)).status_code == 404

    headers = admin | {"Idempotency-Key": "topped-up"}
    first, second = [await pipeline.client.post(path, json=body, headers=headers) for _ in "ab"]
    assert (first.status_code, first.json()["breaker_state"]) == (200, "closed")
    assert second.headers["idempotency-replayed"] == "true"
    assert (await pipeline.client.post(path, json=body, headers=admin)).status_code == 200
    (line,) = pipeline.database.rows(
        "select target, detail from app.audit_log join app.audit_details on audit_id = id"
        " where action = 'provider_account.close_breaker'"
    )
    assert line["target"] == str(pipeline.account()["id"])
    assert line["detail"]["reason"] == "Topped up by hand."
    assert (await pipeline.finish(generation_id))["state"] == "succeeded"


async def test_an_admin_has_a_refused_key_tried_at_once(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline() as pipeline:
        ada = await pipeline.person()
        await pipeline.outage("unauthorized", key="key-1")
        generation_id = await ada.start()
        await pipeline.dispatch()
        await pipeline.heal()
        assert await pipeline.dispatch() == 0
        path = f"/v1/admin/provider-accounts/{pipeline.account()['id']}/close-breaker"
        answer = await pipeline.client.post(
            path, json={"reason": "The key is back."}, headers=pipeline.admin()
        )
        assert answer.status_code == 200, answer.text
        assert (await pipeline.finish(generation_id))["state"] == "succeeded"
        assert key(pipeline, 1)["refused_at"] is None
