"""Lines: whoever joins, serves and leaves at once, no item that waits is ever out of its line."""

import random
import uuid
from collections import Counter
from typing import Any

import pytest

from tests.harness.database import TestDatabase
from tests.harness.ledger import Conn, connect, race, states

pytestmark = [pytest.mark.race, pytest.mark.timeout(180)]

ITEMS = "create table public.items (id uuid primary key, key uuid not null)"


@pytest.fixture
def items(database: TestDatabase) -> TestDatabase:
    """A table of items beside the line, whose keys wait in the line `toy`."""
    database.rows(ITEMS)
    return database


def add(conn: Conn, key: uuid.UUID) -> None:
    """One item, and its key's place, in this order."""
    with conn.transaction():
        conn.execute("insert into public.items values (%s, %s)", (uuid.uuid4(), key))
        conn.execute("select app.join_line('toy', %s, app.clock_now())", (key,))


def take(conn: Conn) -> uuid.UUID | None:
    row = conn.execute("select app.take_turn('toy') as key").fetchone()
    assert row is not None
    key: uuid.UUID | None = row["key"]
    return key


def serve(conn: Conn) -> uuid.UUID | None:
    """The next key's item, gone; the key whose turn it was."""
    with conn.transaction():
        key = take(conn)
        if key is None:
            return None
        conn.execute(
            "delete from public.items where id = ("
            " select id from public.items where key = %s limit 1 for update skip locked)",
            (key,),
        )
        left = conn.execute("select 1 from public.items where key = %s", (key,)).fetchone()
        conn.execute(
            "select app.end_turn('toy', %s, case when %s then app.clock_now() end)",
            (key, left is not None),
        )
        return key


def keys(database: TestDatabase) -> list[uuid.UUID]:
    return [row["key"] for row in database.rows("select key from app.lines order by serve_at")]


def test_keys_take_turns(items: TestDatabase) -> None:
    people = [uuid.uuid4() for _ in range(3)]
    with connect(items.superuser_url) as conn:
        for person in people:
            for _ in range(2):
                add(conn, person)
        served = [serve(conn) for _ in range(7)]
    assert served == [*people, *people, None]
    assert keys(items) == []


def test_who_joins_again_keeps_the_earlier_time(items: TestDatabase) -> None:
    key = uuid.uuid4()
    for minutes in (5, 60, 1, 30):
        items.rows(
            "select app.join_line('toy', %s, app.now() + make_interval(mins => %s))", (key, minutes)
        )
    row = items.row("select serve_at - app.now() as ahead from app.lines")
    assert 0 < row["ahead"].total_seconds() <= 60
    with connect(items.superuser_url) as conn:
        assert take(conn) is None, "nobody is served before the time"
        items.clock.advance(minutes=1)
        assert take(conn) == key


def test_lines_do_not_see_each_other(items: TestDatabase) -> None:
    items.rows("select app.join_line('other', %s, app.now())", (uuid.uuid4(),))
    with connect(items.superuser_url) as conn:
        assert take(conn) is None


def test_two_servers_never_wait_for_each_other(items: TestDatabase) -> None:
    people = [uuid.uuid4() for _ in range(2)]
    with connect(items.superuser_url) as first, connect(items.superuser_url) as second:
        for person in people:
            add(first, person)
        with first.transaction(), second.transaction():
            assert [take(first), take(second), take(first)] == [people[0], people[1], people[0]]


def test_no_item_is_missed(items: TestDatabase) -> None:
    """Joining, serving and leaving at once, over few keys, so that lines empty all the time."""
    people = [uuid.uuid4() for _ in range(3)]
    rng = random.Random(4)

    def joiner(seed: int) -> Any:
        order = random.Random(seed)

        def join(conn: Conn) -> None:
            for _ in range(60):
                add(conn, order.choice(people))

        return join

    def server(conn: Conn) -> int:
        served = idle = 0
        while idle < 40:
            found = serve(conn)
            served += found is not None
            idle += found is None
        return served

    works = [*(joiner(seed) for seed in range(4)), *([server] * 4)]
    rng.shuffle(works)
    assert set(states(race(items.superuser_url, works))) == {"ok"}
    waiting = {row["key"] for row in items.rows("select distinct key from public.items")}
    assert waiting <= set(keys(items)), "who waits has a place"
    with connect(items.superuser_url) as conn:
        served = Counter(serve(conn) for _ in range(300))
    assert items.rows("select 1 from public.items") == []
    assert keys(items) == []
    assert served[None] > 0
