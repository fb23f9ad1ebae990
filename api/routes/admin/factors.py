"""For admins: the second factors of all admins, and answering for one."""

import uuid

from litestar import Router, get, post
from litestar.params import FromPath, JSONBody

from api.http.once import ONCE_ERRORS, REPLAYED_HEADER, OnceKey
from api.http.pages import Page
from api.identity import CurrentAdmin
from api.openapi import ADMIN
from api.problems import raises
from api.resources import Db
from api.schemas.admin.factors import ConfirmFactor
from core.db import Connection
from core.errors import NotAllowedError, NotFoundError
from core.identity import factors
from core.identity.factors import AdminFactor


@get(
    "/v1/admin/factors",
    operation_id="list_admin_factors",
    summary="Second factors of admins, unconfirmed ones first",
    tags=["Admin"],
    security=ADMIN,
    responses=raises(NotAllowedError),
)
async def list_admin_factors(admin: CurrentAdmin, db: Db) -> Page[AdminFactor]:
    return Page(await db.run(factors.list_admin_factors, scope=admin.scope))


@post(
    "/v1/admin/factors/{factor_id:uuid}/confirm",
    operation_id="confirm_admin_factor",
    summary="Answer for an admin's second factor",
    description="One that was enrolled after the role was given counts only then. Ask its owner,"
    " not by mail: whoever has their password may have their mail. Audited.",
    tags=["Admin"],
    security=ADMIN,
    status_code=200,
    response_headers=[REPLAYED_HEADER],
    responses=raises(NotAllowedError, NotFoundError, *ONCE_ERRORS, body=True),
)
async def confirm_admin_factor(
    admin: CurrentAdmin,
    db: Db,
    once: OnceKey,
    factor_id: FromPath[uuid.UUID],
    data: JSONBody[ConfirmFactor],
) -> AdminFactor:
    async def confirm(conn: Connection) -> AdminFactor:
        return await factors.confirm_admin_factor(conn, factor_id, reason=data.reason)

    return await once.run(db, admin.scope, AdminFactor, confirm)


router = Router("/", route_handlers=[list_admin_factors, confirm_admin_factor])
