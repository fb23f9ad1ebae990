"""Packs: what can be bought."""

from litestar import Router, get

from api.http.pages import Page
from api.openapi import PUBLIC
from api.problems import raises
from api.resources import Db
from api.schemas.packs import PackView, pack_view
from core.db import ANONYMOUS
from core.payments import service


@get(
    "/v1/packs",
    operation_id="list_packs",
    summary="Credit packs and their prices",
    description="The smallest first. `POST /v1/checkout` buys one.",
    tags=["Payments"],
    security=PUBLIC,
    responses=raises(public=True),
)
async def list_packs(db: Db) -> Page[PackView]:
    packs = await db.run(service.list_packs, scope=ANONYMOUS)
    return Page([pack_view(pack) for pack in packs])


router = Router("/", route_handlers=[list_packs])
