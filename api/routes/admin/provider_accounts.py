"""For admins: the accounts at image providers, with their slots, breakers and keys."""

import uuid

from litestar import Router, get, post
from litestar.params import FromPath, JSONBody

from api.http.once import ONCE_ERRORS, REPLAYED_HEADER, OnceKey
from api.http.pages import Page
from api.identity import CurrentAdmin
from api.openapi import ADMIN
from api.problems import raises
from api.resources import Db
from api.schemas.admin.provider_accounts import CloseBreaker
from core.db import Connection
from core.errors import NotAllowedError, NotFoundError
from core.generations.providers import listing
from core.generations.providers.listing import ProviderAccount


@get(
    "/v1/admin/provider-accounts",
    operation_id="list_provider_accounts",
    summary="Provider accounts: slots, breaker, cooldown, keys",
    description="A key is shown by the name of its variable and its fingerprint.",
    tags=["Admin"],
    security=ADMIN,
    responses=raises(NotAllowedError),
)
async def list_provider_accounts(admin: CurrentAdmin, db: Db) -> Page[ProviderAccount]:
    return Page(await db.run(listing.list_provider_accounts, scope=admin.scope))


@post(
    "/v1/admin/provider-accounts/{account_id:uuid}/close-breaker",
    operation_id="close_provider_breaker",
    summary="Use a provider account again at once",
    description="Audited. Closes the account's breaker without waiting for its probe, and has keys"
    " that were refused tried again. If the account is refused once more, it opens as before.",
    tags=["Admin"],
    security=ADMIN,
    status_code=200,
    response_headers=[REPLAYED_HEADER],
    responses=raises(NotAllowedError, NotFoundError, *ONCE_ERRORS, body=True),
)
async def close_provider_breaker(
    admin: CurrentAdmin,
    db: Db,
    once: OnceKey,
    account_id: FromPath[uuid.UUID],
    data: JSONBody[CloseBreaker],
) -> ProviderAccount:
    async def close(conn: Connection) -> ProviderAccount:
        return await listing.close_breaker(conn, account_id, reason=data.reason)

    return await once.run(db, admin.scope, ProviderAccount, close)


router = Router("/", route_handlers=[list_provider_accounts, close_provider_breaker])
