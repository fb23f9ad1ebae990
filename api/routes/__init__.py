"""Every router of the application, one import each: a new noun adds one line."""

from types import ModuleType

from litestar import Router

from api.pages import assets
from api.pages import checkout as checkout_page
from api.pages import confirm as confirm_page
from api.routes import (
    account_events,
    auth,
    checkout,
    codes,
    credits,  # noqa: A004  the noun names the module
    estimates,
    generations,
    health,
    me,
    operations,
    packs,
    payments,
    problems,
    refunds,
    uploads,
)
from api.routes.admin import codes as admin_codes
from api.routes.admin import credits as admin_credits
from api.routes.admin import dead_letters as admin_dead_letters
from api.routes.admin import factors as admin_factors
from api.routes.admin import payments as admin_payments
from api.routes.admin import provider_accounts as admin_provider_accounts
from api.routes.admin import reviews as admin_reviews
from api.routes.webhooks import fal as fal_webhook
from api.routes.webhooks import stripe as stripe_webhook

# Whatever stands above and has a router.
ROUTERS: list[Router] = [
    each.router
    for each in tuple(globals().values())
    if isinstance(each, ModuleType) and hasattr(each, "router")
]
