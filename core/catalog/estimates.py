"""What a run would cost, and whether the balance covers it. Reserves nothing."""

import uuid
from typing import Any

import msgspec

from core.catalog import service
from core.catalog.types import Operation
from core.db import Connection
from core.people import service as accounts
from core.people.service import Account


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Units: whole credits. `params` have their defaults, or are None if none were given."""

    operation: Operation
    params: dict[str, Any] | None
    count: int
    account: Account

    @property
    def total_credits(self) -> int:
        return self.operation.cost_credits * self.count

    @property
    def is_enough(self) -> bool:
        return self.account.available >= self.total_credits

    @property
    def missing_credits(self) -> int:
        """How many credits the user lacks; debt is paid first."""
        return max(0, self.total_credits + self.account.debt - self.account.available)


async def estimate(
    conn: Connection,
    slug: str,
    params: dict[str, Any] | None,
    *,
    count: int,
    upload_id: uuid.UUID | None = None,
) -> Estimate:
    """The price of `count` images for the user of the scope, and whether a photo can be used.

    Raises: NotFoundError, ConflictError (the photo is not ready), InvalidInputError.
    """
    operation = await service.get_operation(conn, slug)
    checked = None if params is None else service.check_params(operation, params)
    if upload_id is not None:
        await service.check_possible(conn, operation, upload_id, checked or {})
    account = await accounts.get_account(conn)
    return Estimate(operation=operation, params=checked, count=count, account=account)
