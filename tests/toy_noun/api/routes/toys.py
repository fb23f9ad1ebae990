"""Toys: have one polished."""

import uuid
from typing import Annotated

import msgspec
from core.toys import service
from litestar import Router, post
from litestar.params import JSONBody

from api.identity import CurrentUser
from api.openapi import BEARER
from api.problems import raises
from api.resources import Db
from core.ids import new_id


class CreateToy(msgspec.Struct, frozen=True):
    shine: Annotated[int, msgspec.Meta(ge=0)]


class ToyView(msgspec.Struct, frozen=True):
    id: uuid.UUID
    shine: int


@post(
    "/v1/toys",
    operation_id="create_toy",
    tags=["Toys"],
    security=BEARER,
    responses=raises(body=True),
)
async def create_toy(user: CurrentUser, db: Db, data: JSONBody[CreateToy]) -> ToyView:
    toy_id = new_id()
    toy = await db.run(lambda conn: service.start(conn, toy_id, data.shine), scope=user.scope)
    return ToyView(toy.id, toy.shine)


router = Router("/", route_handlers=[create_toy])
