"""Who is served next."""

import asyncio

from core.generations.types import Ticket
from tests.integration.generations.conftest import OpenWorld
from tests.integration.generations.world import Person, World


async def drain(world: World) -> list[Ticket]:
    """One ticket after the other until nobody waits."""
    served = []
    while tickets := await world.take_tickets():
        served += tickets
    return served


async def test_one_user_with_many_does_not_hold_up_the_others(open_world: OpenWorld) -> None:
    async with open_world(fal_account_slots=100) as world:
        hog = await world.person(30)
        for _ in range(20):
            await hog.start()
        others = [await world.person() for _ in range(5)]
        for other in others:
            await other.start()
        served = [ticket.user_id for ticket in await drain(world)]
        assert set(served[:6]) == {hog.id, *(other.id for other in others)}
        assert served[6:] == [hog.id] * 19


async def test_users_take_turns(open_world: OpenWorld) -> None:
    async with open_world(fal_account_slots=100) as world:
        people = [await world.person() for _ in range(3)]
        for person in people:
            for _ in range(4):
                await person.start()
        served = [ticket.user_id for ticket in await drain(world)]
        for turn in range(4):
            assert set(served[turn * 3 : turn * 3 + 3]) == {person.id for person in people}
        assert served[:3] == served[3:6] == served[6:9], "whoever waited longest"


async def test_many_tickets_at_once_are_as_fair(open_world: OpenWorld) -> None:
    async with open_world(fal_account_slots=100) as world:
        hog, other = await world.person(30), await world.person()
        for _ in range(10):
            await hog.start()
        await other.start()
        served = [ticket.user_id for ticket in await world.take_tickets(limit=4)]
        assert set(served[:2]) == {hog.id, other.id}


async def test_own_work_is_served_in_its_order(world: World, ada: Person) -> None:
    made = [await ada.start() for _ in range(3)]
    assert [str(ticket.generation_id) for ticket in await drain(world)] == made


async def test_interactive_work_goes_before_batches(open_world: OpenWorld) -> None:
    async with open_world(fal_account_slots=100) as world:
        ada, bob = await world.person(), await world.person()
        batch = [await bob.start(priority="batch") for _ in range(3)]
        quick = [await ada.start() for _ in range(3)]
        served = [str(ticket.generation_id) for ticket in await drain(world)]
        assert served[:3] == quick
        assert set(served[3:]) == set(batch)


async def test_a_ticket_serves_the_fairest_not_its_own(world: World, ada: Person) -> None:
    bob = await world.person()
    for _ in range(2):
        await bob.start()
    await world.take_tickets()  # bob has just been served
    mine = await ada.start()
    bobs_ticket = next(task for task in world.tasks() if str(task["id"]) != mine)
    await world.run_one(bobs_ticket["id"])
    assert world.state(mine) != "queued"


async def test_what_waits_for_another_attempt_holds_up_nobody(world: World, ada: Person) -> None:
    waiting = await ada.start()
    await world.move(
        "update app.generations set available_at = now() + interval '1 hour' where id = %s",
        (waiting,),
    )
    ready = await ada.start()
    assert [str(ticket.generation_id) for ticket in await drain(world)] == [ready]


async def test_two_dispatchers_never_open_two_calls(open_world: OpenWorld) -> None:
    async with open_world(fal_account_slots=6) as world:
        people = [await world.person() for _ in range(4)]
        for person in people:
            for _ in range(3):
                await person.start()
        taken = await asyncio.gather(*(world.take_tickets(limit=4) for _ in range(6)))
        ids = [ticket.generation_id for tickets in taken for ticket in tickets]
        assert len(ids) == len(set(ids)) == 6
        open_calls = world.database.rows("select generation_id from app.provider_calls")
        assert sorted(row["generation_id"] for row in open_calls) == sorted(ids)
