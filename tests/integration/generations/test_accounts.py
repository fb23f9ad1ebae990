"""Slots, cooldown, breaker and keys of the provider's accounts."""

from collections import Counter

import pytest

from tests.integration.generations.conftest import OpenWorld
from tests.integration.generations.opening import fal_key
from tests.integration.generations.world import Person, World


def used_accounts(world: World) -> Counter[str]:
    return Counter(
        row["name"]
        for row in world.database.rows(
            "select account.name from app.provider_calls as call"
            " join app.provider_accounts as account on account.id = call.account_id"
        )
    )


async def test_too_many_requests_pause_the_account(world: World, ada: Person) -> None:
    await world.fault("rate_limited", times=1, retry_after=30)
    generation_id = await ada.start()
    assert await world.dispatch() == 1
    found = world.generation(generation_id)
    assert (found["state"], found["attempts"]) == ("queued", 0)
    assert found["available_at"] <= world.now(), "the account pauses, not the generation"
    pause = (world.account()["cooldown_until"] - world.now()).total_seconds()
    assert 28 < pause < 37
    assert await world.dispatch() == 0
    await world.pass_cooldown()
    assert (await world.finish(generation_id))["state"] == "succeeded"
    assert world.balance(ada) == (9, 0)


async def test_a_shorter_pause_does_not_shorten_a_longer_one(open_world: OpenWorld) -> None:
    async with open_world() as world:
        ada = await world.person()
        await world.fault("rate_limited", nth=1, retry_after=100)
        await world.fault("rate_limited", nth=2, retry_after=5)
        await ada.start()
        await ada.start()
        assert await world.dispatch() == 2
        pause = (world.account()["cooldown_until"] - world.now()).total_seconds()
        assert pause > 90


async def test_another_account_takes_over(open_world: OpenWorld) -> None:
    keys = (fal_key(1, "one"), fal_key(2, "two"))
    async with open_world(fal_keys=keys) as world:
        ada = await world.person()
        await world.fault("rate_limited", times=1, retry_after=60)
        generation_id = await ada.start()
        await world.dispatch()
        assert world.ctx.dispatch_wanted.is_set()
        await world.submit()
        assert used_accounts(world) == {"one": 1, "two": 1}
        assert (await world.finish(generation_id))["state"] == "succeeded"
        assert len(await world.paid_calls()) == 1


@pytest.mark.parametrize("fault", ["locked_account", "unauthorized"])
async def test_a_locked_account_opens_its_breaker(fault: str, world: World, ada: Person) -> None:
    await world.fault(fault, times=1)
    generation_id = await ada.start()
    assert await world.dispatch() == 1
    account = world.account()
    assert (account["breaker_state"], account["breaker_failures"]) == ("open", 1)
    assert "key-1" not in account["breaker_reason"]
    found = world.generation(generation_id)
    assert (found["state"], found["attempts"], found["available_at"] <= world.now()) == (
        "queued",
        0,
        True,
    )
    assert await world.dispatch() == 0
    await world.pass_breaker()
    assert (await world.finish(generation_id))["state"] == "succeeded"
    account = world.account()
    assert (account["breaker_state"], account["breaker_failures"], account["breaker_until"]) == (
        "closed",
        0,
        None,
    )


async def test_half_open_takes_one_probe(world: World, ada: Person) -> None:
    await world.fault("locked_account", times=1)
    ids = [await ada.start() for _ in range(4)]
    (first,) = await world.take_tickets()
    await world.send(first)
    assert world.account()["breaker_state"] == "open"
    await world.pass_breaker()

    (probe,) = await world.take_tickets(limit=10)
    assert world.account()["breaker_state"] == "half_open"
    assert await world.take_tickets(limit=10) == [], "one probe until it has answered"
    await world.send(probe)
    assert world.account()["breaker_state"] == "closed"
    assert await world.dispatch() == 3
    for generation_id in ids:
        assert (await world.finish(generation_id))["state"] == "succeeded"


async def test_a_call_from_before_the_refusal_is_no_probe(world: World, ada: Person) -> None:
    for _ in range(2):
        await ada.start()
    (locked,) = await world.take_tickets()
    (taken,) = await world.take_tickets()
    await world.fault("locked_account", times=1)
    await world.send(locked)
    await world.send(taken)
    assert world.account()["breaker_state"] == "open"


async def test_a_failing_probe_doubles_the_pause(world: World, ada: Person) -> None:
    await world.fault("locked_account")
    generation_id = await ada.start()
    pauses = []
    for failures in range(1, 4):
        assert await world.dispatch() == 1
        account = world.account()
        assert (account["breaker_state"], account["breaker_failures"]) == ("open", failures)
        pauses.append((account["breaker_until"] - world.now()).total_seconds())
        await world.pass_breaker()
    seconds = world.ctx.settings.fal_breaker_seconds
    assert pauses == [pytest.approx(seconds * factor, abs=5) for factor in (1, 2, 4)]
    assert world.state(generation_id) == "queued"
    assert world.generation(generation_id)["attempts"] == 0


async def test_a_healthy_account_works_beside_a_locked_one(open_world: OpenWorld) -> None:
    keys = (fal_key(1, "one"), fal_key(2, "two"))
    async with open_world(fal_keys=keys) as world:
        ada = await world.person()
        await world.fault("locked_account", times=1)
        ids = [await ada.start() for _ in range(5)]
        for generation_id in ids:
            assert (await world.finish(generation_id))["state"] == "succeeded"
        assert sorted(
            row["breaker_state"]
            for row in world.database.rows("select breaker_state from app.provider_accounts")
        ) == ["closed", "open"]


async def test_slots_are_never_exceeded(open_world: OpenWorld) -> None:
    keys = (fal_key(1, "one"), fal_key(2, "two"))
    async with open_world(fal_keys=keys, fal_account_slots=2) as world:
        ada = await world.person(20)
        await world.fault("never_finishes")
        for _ in range(7):
            await ada.start()
        assert await world.dispatch() == 4
        assert used_accounts(world) == {"one": 2, "two": 2}
        assert await world.dispatch() == 0
        await world.run_tasks("generation.dispatch")
        assert used_accounts(world) == {"one": 2, "two": 2}, "a ticket without a slot ends"
        assert [task["job"] for task in world.tasks()] == []


async def test_an_ended_call_gives_its_slot_back(open_world: OpenWorld) -> None:
    async with open_world(fal_account_slots=1) as world:
        ada = await world.person()
        first, second = await ada.start(), await ada.start()
        await world.submit()
        assert [world.state(first), world.state(second)].count("queued") == 1
        await world.run_tasks("provider_call.collect")
        assert world.ctx.dispatch_wanted.is_set(), "the end of a call issues a new ticket"
        assert await world.dispatch() == 1


async def test_an_ambiguous_call_keeps_its_slot(open_world: OpenWorld) -> None:
    """It may be running: to fill the slot again would exceed the account's limit."""
    async with open_world(fal_account_slots=1) as world:
        ada = await world.person()
        await world.fault("accept_then_drop", times=1)
        await world.fault("webhook_never", times=1)
        await ada.start()
        await ada.start()
        await world.submit()
        assert await world.dispatch() == 0
        await world.pass_grace()
        await world.sweep()
        assert await world.dispatch() == 1


async def test_keys_take_turns(open_world: OpenWorld) -> None:
    keys = tuple(fal_key(number) for number in (1, 2, 3))
    async with open_world(fal_keys=keys, fal_account_slots=10) as world:
        ada = await world.person()
        for _ in range(6):
            await ada.start()
        tickets = [ticket for _ in range(6) for ticket in await world.take_tickets()]
        used = [ticket.key_fingerprint for ticket in tickets]
        assert set(used[:3]) == set(world.ctx.fal.fingerprints)
        assert used[3:] == used[:3]


async def test_the_key_that_submitted_polls(open_world: OpenWorld) -> None:
    async with open_world(fal_keys=(fal_key(1, "one"), fal_key(2, "two"))) as world:
        ada = await world.person()
        ids = [await ada.start() for _ in range(4)]
        for generation_id in ids:
            assert (await world.finish(generation_id))["state"] == "succeeded"
        assert used_accounts(world) == {"one": 2, "two": 2}
        by_id = {paid["request_id"]: paid["account"] for paid in await world.paid_calls()}
        for row in world.database.rows(
            "select call.request_id, account.name from app.provider_calls as call"
            " join app.provider_accounts as account on account.id = call.account_id"
        ):
            assert by_id[row["request_id"]] == row["name"]


async def test_without_a_key_work_waits(open_world: OpenWorld) -> None:
    async with open_world(fal_keys=()) as world:
        ada = await world.person()
        generation_id = await ada.start()
        await world.run_tasks()
        assert await world.dispatch() == 0
        assert world.state(generation_id) == "queued"


async def test_admins_see_the_accounts(world: World, ada: Person) -> None:
    await world.fault("locked_account")
    await ada.start()
    await world.dispatch()
    path = "/v1/admin/provider-accounts"
    (account,) = (await world.client.get(path, headers=world.admin())).json()
    assert (account["name"], account["breaker_state"], account["slots_held"]) == ("main", "open", 0)
    (key,) = account["keys"]
    assert (key["name"], key["last_used_at"] is not None) == ("FAL_AI_KEY_1", True)
    assert "secret-1" not in str(account)
    for headers in (ada.headers, world.admin(aal="aal1")):
        assert (await world.client.get(path, headers=headers)).status_code == 403
