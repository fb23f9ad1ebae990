"""POST /v1/estimates: what it would cost, before anything is reserved."""

from litestar import Router, post

from api import security
from api.deps import CurrentUser, Db
from api.problems import raises
from api.schemas.me import BalanceView
from api.schemas.operations import Estimate, EstimateRequest
from core.accounts import service as accounts
from core.accounts.service import Account
from core.catalog import service as catalog
from core.catalog.types import LANE_WORDS, Operation
from core.db import Connection
from core.errors import InvalidInputError, NotAllowedError, NotFoundError


@post(
    "/v1/estimates",
    operation_id="create_estimate",
    summary="What would it cost, and is my balance enough",
    description="Checks the parameters as a generation would, and changes nothing.",
    tags=["Operations"],
    security=security.BEARER,
    status_code=200,
    responses=raises(NotFoundError, NotAllowedError, InvalidInputError, body=True),
)
async def create_estimate(user: CurrentUser, db: Db, data: EstimateRequest) -> Estimate:
    network = accounts.network_of(user.client_ip)

    async def work(conn: Connection) -> tuple[Operation, Account]:
        operation = await catalog.get_operation(conn, data.operation)
        return operation, await accounts.get_or_open_account(conn, network)

    operation, account = await db.run(work, scope=user.scope)
    return _estimate(data, operation, account)


def _estimate(data: EstimateRequest, operation: Operation, account: Account) -> Estimate:
    params = None if data.params is None else catalog.check_params(operation, data.params)
    total = operation.cost_credits * data.count
    return Estimate(
        operation=operation.slug,
        version=operation.version,
        lane=operation.lane,
        lane_explained=LANE_WORDS[operation.lane],
        params=params,
        count=data.count,
        cost_credits=operation.cost_credits,
        total_credits=total,
        balance=BalanceView(account.available, account.reserved, account.debt),
        is_enough=account.available >= total,
        missing_credits=max(0, total + account.debt - account.available),
    )


router = Router("/", route_handlers=[create_estimate])
