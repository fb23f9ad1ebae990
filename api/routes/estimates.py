"""POST /v1/estimates: what it would cost, before anything is reserved."""

from litestar import Router, post
from litestar.params import JSONBody

from api.identity import CurrentUser, account_guard
from api.openapi import BEARER
from api.problems import raises
from api.resources import Db
from api.schemas.operations import EstimateRequest, EstimateView, estimate_view_of
from core.catalog.estimates import Estimate, estimate
from core.db import Connection
from core.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError


@post(
    "/v1/estimates",
    operation_id="create_estimate",
    summary="What would it cost, and is my balance enough",
    description="Checks the parameters as a generation would, and reserves nothing. With"
    " `upload_id` also whether the operation can do it with that photo: what a generation would"
    " refuse is refused here in the same words.",
    tags=["Operations"],
    security=BEARER,
    status_code=200,
    guards=[account_guard],
    responses=raises(NotFoundError, NotAllowedError, ConflictError, InvalidInputError, body=True),
)
async def create_estimate(
    user: CurrentUser, db: Db, data: JSONBody[EstimateRequest]
) -> EstimateView:
    async def work(conn: Connection) -> Estimate:
        return await estimate(
            conn, data.operation, data.params, count=data.count, upload_id=data.upload_id
        )

    return estimate_view_of(await db.run(work, scope=user.scope))


router = Router("/", route_handlers=[create_estimate])
