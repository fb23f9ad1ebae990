"""The partitions of the table: one for each month, and none that is too old."""

from core.db import Connection, fetch_one


async def rotate(conn: Connection) -> int:
    """Makes the partitions ahead and drops the old ones; returns how many. Replay: none more."""
    row = await fetch_one(conn, "select app.rotate_events() as changed")
    assert row is not None
    changed: int = row["changed"]
    return changed
