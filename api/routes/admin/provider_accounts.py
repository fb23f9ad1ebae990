"""For admins: the accounts at image providers, with their slots, breakers and keys."""

from litestar import Router, get

from api.http.pages import Page
from api.identity import CurrentAdmin
from api.openapi import ADMIN
from api.problems import raises
from api.resources import Db
from core.errors import NotAllowedError
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


router = Router("/", route_handlers=[list_provider_accounts])
