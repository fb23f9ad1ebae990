"""Toys: a person has one polished, by a job."""

import uuid
from typing import Protocol

import msgspec

from core.db import Connection, Database, fetch_one
from core.errors import NotFoundError
from core.tasks.jobs import DONE, Outcome
from core.tasks.outbox import Task


class Toy(msgspec.Struct, frozen=True):
    id: uuid.UUID
    shine: int


class ToyTools(Protocol):
    """`db` signs in as the worker."""

    @property
    def db(self) -> Database: ...


async def start(conn: Connection, toy_id: uuid.UUID, shine: int) -> Toy:
    """Raises: NoIdentityError."""
    await conn.execute("select app.start_toy(%s, %s)", (toy_id, shine))
    return await get(conn, toy_id)


async def get(conn: Connection, toy_id: uuid.UUID) -> Toy:
    """Raises: NotFoundError."""
    row = await fetch_one(conn, "select id, shine from app.toys where id = %s", (toy_id,))
    if row is None:
        raise NotFoundError(kind="toy")
    return msgspec.convert(row, Toy)


async def polish(tools: ToyTools, task: Task) -> Outcome:
    """`toy.polish` {toy_id}"""
    toy_id = uuid.UUID(task.args["toy_id"])

    async def work(conn: Connection) -> None:
        await conn.execute("select app.polish_toy(%s)", (toy_id,))

    await tools.db.run(work)
    return DONE
