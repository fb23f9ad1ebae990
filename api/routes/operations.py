"""GET /v1/operations: the catalogue, open to everybody."""

from litestar import Router, get
from litestar.params import FromPath

from api.http.pages import Page
from api.openapi import PUBLIC
from api.problems import raises
from api.resources import Db
from api.schemas.operations import OperationView, view_of
from core.catalog import service
from core.catalog.types import Operation
from core.db import ANONYMOUS, Connection
from core.errors import NotFoundError


@get(
    "/v1/operations",
    operation_id="list_operations",
    summary="What can be done to a photo, and for how many credits",
    description="The lane says what may happen to the piece: `locked` keeps its own pixels,"
    " `reimagined` lets a model redraw it.",
    tags=["Operations"],
    security=PUBLIC,
    responses=raises(public=True),
)
async def list_operations(db: Db) -> Page[OperationView]:
    operations = await db.run(service.list_operations, scope=ANONYMOUS)
    return Page([view_of(operation) for operation in operations])


@get(
    "/v1/operations/{slug:str}",
    operation_id="get_operation",
    summary="One operation",
    tags=["Operations"],
    security=PUBLIC,
    responses=raises(NotFoundError, public=True),
)
async def get_operation(db: Db, slug: FromPath[str]) -> OperationView:
    async def work(conn: Connection) -> Operation:
        return await service.get_operation(conn, slug)

    return view_of(await db.run(work, scope=ANONYMOUS))


router = Router("/", route_handlers=[list_operations, get_operation])
