"""Slots, cooldown, breaker and keys of the provider's accounts."""

from collections import Counter

import pytest

from core.generations.providers.accounts import fingerprints_of
from tests.harness.pipeline import PhotoOwner, PipelineHarness
from tests.harness.pipeline_setup import fal_key
from tests.integration.generations.conftest import OpenPipeline


def used_accounts(pipeline: PipelineHarness) -> Counter[str]:
    return Counter(
        row["name"]
        for row in pipeline.database.rows(
            "select account.name from app.provider_calls as call"
            " join app.provider_accounts as account on account.id = call.account_id"
        )
    )


async def test_too_many_requests_pause_the_account(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("rate_limited", times=1, retry_after=30)
    generation_id = await ada.start()
    assert await pipeline.dispatch() == 1
    found = pipeline.generation(generation_id)
    assert (found["state"], found["attempts"]) == ("queued", 0)
    assert found["available_at"] <= pipeline.now(), "the account pauses, not the generation"
    pause = (pipeline.account()["cooldown_until"] - pipeline.now()).total_seconds()
    assert 28 < pause < 37
    assert await pipeline.dispatch() == 0
    pipeline.pass_cooldown()
    assert (await pipeline.finish(generation_id))["state"] == "succeeded"
    assert pipeline.balance(ada) == (9, 0)


async def test_a_shorter_pause_does_not_shorten_a_longer_one(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline() as pipeline:
        ada = await pipeline.person()
        await pipeline.fault("rate_limited", nth=1, retry_after=100)
        await pipeline.fault("rate_limited", nth=2, retry_after=5)
        await ada.start()
        await ada.start()
        assert await pipeline.dispatch() == 2
        pause = (pipeline.account()["cooldown_until"] - pipeline.now()).total_seconds()
        assert pause > 90


async def test_another_account_takes_over(open_pipeline: OpenPipeline) -> None:
    keys = (fal_key(1, "one"), fal_key(2, "two"))
    async with open_pipeline(fal_keys=keys) as pipeline:
        ada = await pipeline.person()
        await pipeline.fault("rate_limited", times=1, retry_after=60)
        generation_id = await ada.start()
        await pipeline.dispatch()
        assert pipeline.ctx.dispatch_wanted.is_set()
        await pipeline.submit()
        assert used_accounts(pipeline) == {"one": 1, "two": 1}
        assert (await pipeline.finish(generation_id))["state"] == "succeeded"
        assert len(await pipeline.paid_calls()) == 1


async def test_a_locked_account_opens_its_breaker(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("locked_account", times=1)
    generation_id = await ada.start()
    assert await pipeline.dispatch() == 1
    account = pipeline.account()
    assert (account["breaker_state"], account["breaker_failures"]) == ("open", 1)
    assert "key-1" not in account["breaker_reason"]
    found = pipeline.generation(generation_id)
    assert (found["state"], found["attempts"], found["available_at"] <= pipeline.now()) == (
        "queued",
        0,
        True,
    )
    assert await pipeline.dispatch() == 0
    pipeline.pass_breaker()
    assert (await pipeline.finish(generation_id))["state"] == "succeeded"
    account = pipeline.account()
    assert (account["breaker_state"], account["breaker_failures"], account["breaker_until"]) == (
        "closed",
        0,
        None,
    )


async def test_half_open_takes_one_probe(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    await pipeline.fault("locked_account", times=1)
    ids = [await ada.start() for _ in range(4)]
    (first,) = await pipeline.open_calls()
    await pipeline.send(first)
    assert pipeline.account()["breaker_state"] == "open"
    pipeline.pass_breaker()

    (probe,) = await pipeline.open_calls(limit=10)
    assert pipeline.account()["breaker_state"] == "half_open"
    assert await pipeline.open_calls(limit=10) == [], "one probe until it has answered"
    await pipeline.send(probe)
    assert pipeline.account()["breaker_state"] == "closed"
    assert await pipeline.dispatch() == 3
    for generation_id in ids:
        assert (await pipeline.finish(generation_id))["state"] == "succeeded"


async def test_a_call_from_before_the_refusal_is_no_probe(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    for _ in range(2):
        await ada.start()
    (locked,) = await pipeline.open_calls()
    (taken,) = await pipeline.open_calls()
    await pipeline.fault("locked_account", times=1)
    await pipeline.send(locked)
    await pipeline.send(taken)
    assert pipeline.account()["breaker_state"] == "open"


async def test_a_failing_probe_doubles_the_pause(
    pipeline: PipelineHarness, ada: PhotoOwner
) -> None:
    await pipeline.fault("locked_account")
    generation_id = await ada.start()
    pauses = []
    for failures in range(1, 4):
        assert await pipeline.dispatch() == 1
        account = pipeline.account()
        assert (account["breaker_state"], account["breaker_failures"]) == ("open", failures)
        pauses.append((account["breaker_until"] - pipeline.now()).total_seconds())
        pipeline.pass_breaker()
    seconds = pipeline.ctx.settings.provider_breaker_seconds
    assert pauses == [pytest.approx(seconds * factor, abs=5) for factor in (1, 2, 4)]
    assert pipeline.state(generation_id) == "queued"
    assert pipeline.generation(generation_id)["attempts"] == 0


async def test_a_healthy_account_works_beside_a_locked_one(open_pipeline: OpenPipeline) -> None:
    keys = (fal_key(1, "one"), fal_key(2, "two"))
    async with open_pipeline(fal_keys=keys) as pipeline:
        ada = await pipeline.person()
        await pipeline.fault("locked_account", times=1)
        ids = [await ada.start() for _ in range(5)]
        for generation_id in ids:
            assert (await pipeline.finish(generation_id))["state"] == "succeeded"
        assert sorted(
            row["breaker_state"]
            for row in pipeline.database.rows("select breaker_state from app.provider_accounts")
        ) == ["closed", "open"]


async def test_slots_are_never_exceeded(open_pipeline: OpenPipeline) -> None:
    keys = (fal_key(1, "one"), fal_key(2, "two"))
    async with open_pipeline(fal_keys=keys, provider_account_slots=2) as pipeline:
        ada = await pipeline.person(20)
        await pipeline.fault("never_finishes")
        for _ in range(7):
            await ada.start()
        assert await pipeline.dispatch() == 4
        assert used_accounts(pipeline) == {"one": 2, "two": 2}
        assert await pipeline.dispatch() == 0
        await pipeline.run_tasks("generation.dispatch")
        assert used_accounts(pipeline) == {"one": 2, "two": 2}, "a ticket without a slot ends"
        assert [task["job"] for task in pipeline.tasks()] == []


async def test_an_ended_call_gives_its_slot_back(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(provider_account_slots=1) as pipeline:
        ada = await pipeline.person()
        first, second = await ada.start(), await ada.start()
        await pipeline.submit()
        assert [pipeline.state(first), pipeline.state(second)].count("queued") == 1
        await pipeline.run_tasks("provider_call.collect")
        assert pipeline.ctx.dispatch_wanted.is_set(), "the end of a call issues a new ticket"
        assert await pipeline.dispatch() == 1


async def test_an_ambiguous_call_keeps_its_slot(open_pipeline: OpenPipeline) -> None:
    """It may be running: to fill the slot again would exceed the account's limit."""
    async with open_pipeline(provider_account_slots=1) as pipeline:
        ada = await pipeline.person()
        await pipeline.fault("accept_then_drop", times=1)
        await pipeline.fault("webhook_never", times=1)
        await ada.start()
        await ada.start()
        await pipeline.submit()
        assert await pipeline.dispatch() == 0
        pipeline.pass_grace()
        await pipeline.sweep()
        assert await pipeline.dispatch() == 1


async def test_keys_take_turns(open_pipeline: OpenPipeline) -> None:
    keys = tuple(fal_key(number) for number in (1, 2, 3))
    async with open_pipeline(fal_keys=keys, provider_account_slots=10) as pipeline:
        ada = await pipeline.person()
        for _ in range(6):
            await ada.start()
        calls = [call for _ in range(6) for call in await pipeline.open_calls()]
        used = [call.key_fingerprint for call in calls]
        assert set(used[:3]) == set(fingerprints_of(pipeline.ctx.providers))
        assert used[3:] == used[:3]


async def test_the_key_that_submitted_polls(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(fal_keys=(fal_key(1, "one"), fal_key(2, "two"))) as pipeline:
        ada = await pipeline.person()
        ids = [await ada.start() for _ in range(4)]
        for generation_id in ids:
            assert (await pipeline.finish(generation_id))["state"] == "succeeded"
        assert used_accounts(pipeline) == {"one": 2, "two": 2}
        by_id = {paid["request_id"]: paid["account"] for paid in await pipeline.paid_calls()}
        for row in pipeline.database.rows(
            "select call.request_id, account.name from app.provider_calls as call"
            " join app.provider_accounts as account on account.id = call.account_id"
        ):
            assert by_id[row["request_id"]] == row["name"]


async def test_without_a_key_work_waits(open_pipeline: OpenPipeline) -> None:
    async with open_pipeline(fal_keys=()) as pipeline:
        ada = await pipeline.person()
        generation_id = await ada.start()
        await pipeline.run_tasks()
        assert await pipeline.dispatch() == 0
        assert pipeline.state(generation_id) == "queued"


async def test_admins_see_the_accounts(pipeline: PipelineHarness, ada: PhotoOwner) -> None:
    await pipeline.fault("locked_account")
    await ada.start()
    await pipeline.dispatch()
    path = "/v1/admin/provider-accounts"
    (account,) = (await pipeline.client.get(path, headers=pipeline.admin())).json()["items"]
    assert (account["name"], account["breaker_state"], account["slots_held"]) == ("main", "open", 0)
    (key,) = account["keys"]
    assert (key["name"], key["last_used_at"] is not None) == ("FAL_AI_KEY_1", True)
    assert "secret-1" not in str(account)
    for headers in (ada.headers, pipeline.admin(aal="aal1")):
        assert (await pipeline.client.get(path, headers=headers)).status_code == 403
