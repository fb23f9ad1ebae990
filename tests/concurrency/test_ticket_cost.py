"""What a ticket reads, counted in rows: as many whether ten wait or hundreds.

Rows and not times, which depend on what else the machine does. `make bench` measures the times.
"""

from collections.abc import Callable

import pytest

from tests.concurrency.test_generation_races import Desk, take
from tests.harness.database import TestDatabase
from tests.harness.ledger import Conn, connect, scoped, user_claims

# The crowd is made without its money.
pytestmark = [pytest.mark.drift, pytest.mark.timeout(180)]

# Without its foreign keys and events, which are the same for all of them.
_PEOPLE = """
with made as (
  insert into app.users (id) select gen_random_uuid() from generate_series(1, %s) returning id
), photos as (
  insert into app.uploads
    (id, user_id, state, storage_key, normal_key, pixel_sha256, content_type)
  select gen_random_uuid(), id, 'ready', 'in.jpg', 'normal.png', 'abc', 'image/png' from made
  returning id, user_id
)
insert into app.generations (
  id, user_id, upload_id, operation, operation_version, lane, cost_credits, params, input_key,
  wait_until, line_no
)
select gen_random_uuid(), user_id, id, 'packshot', 1, 'locked', 1, '{}', 'normal.png',
  app.now() + interval '30 minutes', number
from photos
cross join generate_series(1, %s) as number
"""

_READ = """
select relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) as rows
from pg_stat_xact_user_tables
where schemaname = 'app'
  and relname in ('generations', 'lines')
"""


def wait_in_line(database: TestDatabase, people: int, each: int) -> None:
    database.rows(_PEOPLE, (people, each))


def pause_all(database: TestDatabase) -> None:
    database.rows("update app.generations set available_at = app.now() + interval '1 hour'")


def run_out(database: TestDatabase) -> None:
    database.clock.advance(minutes=31)


def test_an_order_and_its_place_read_one_row_of_the_line(database: TestDatabase) -> None:
    """With statistics of an hour in which nobody waited, too."""
    desk = Desk(database)
    database.rows("analyze app.generations, app.lines")
    wait_in_line(database, 300, 2)
    user_id = desk.ledger.user(10)
    photo = desk.ledger.upload(user_id)
    with connect(database.superuser_url) as conn, conn.transaction():
        for _ in range(8):
            with scoped(conn, "jewelshot_user", user_claims(user_id)):
                made = conn.execute(
                    "select app.start_generation(gen_random_uuid(), 'packshot', %s,"
                    " '{\"size\": 2000}')",
                    (photo,),
                ).fetchone()
            assert made is not None
            conn.execute("reset role")
        read = {row["relname"]: row["rows"] for row in conn.execute(_READ).fetchall()}
    assert read["lines"] <= 8 * 6, read


def rows_read(database: TestDatabase, tickets: int) -> dict[str, float]:
    """Rows of each table that one ticket reads, on the average of some."""

    def read(conn: Conn) -> dict[str, int]:
        return {row["relname"]: row["rows"] for row in conn.execute(_READ).fetchall()}

    with connect(database.superuser_url) as conn:
        for _ in range(6):
            take(conn, 1)  # until its plans are those that stay
        with conn.transaction():
            before = read(conn)
            for _ in range(tickets):
                take(conn, 1)
            after = read(conn)
    return {name: (after[name] - before[name]) / tickets for name in after}


@pytest.mark.parametrize(
    ("crowd", "change"),
    [
        ((300, 2), None),
        ((1, 600), None),
        ((300, 2), pause_all),
        ((1, 600), pause_all),
        ((300, 2), run_out),
        ((1, 600), run_out),
    ],
    ids=["people", "rows", "people-paused", "rows-paused", "people-late", "rows-late"],
)
def test_a_ticket_reads_as_much_for_many_as_for_few(
    crowd: tuple[int, int],
    change: Callable[[TestDatabase], None] | None,
    database: TestDatabase,
) -> None:
    Desk(database).keys(slots=1000)
    database.rows("analyze app.generations, app.lines")  # as when nobody waits
    wait_in_line(database, *crowd)
    if change is not None:
        change(database)
    read = rows_read(database, tickets=10)
    # The line's row and two or three of the person's; at most eight turns that come to nothing.
    most = 16 if change is None else 110
    assert sum(read.values()) <= most, read
