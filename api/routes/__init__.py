"""Every router of the application. A new noun adds its router here."""

from litestar import Router

from api.pages import assets, problems
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
    refunds,
    uploads,
)
from api.routes.admin import codes as admin_codes
from api.routes.admin import credits as admin_credits
from api.routes.admin import dead_letters as admin_dead_letters
from api.routes.admin import payments as admin_payments
from api.routes.admin import provider_accounts as admin_provider_accounts
from api.routes.webhooks import fal as fal_webhook
from api.routes.webhooks import stripe as stripe_webhook

ROUTERS: list[Router] = [
    account_events.router,
    admin_codes.router,
    admin_credits.router,
    admin_dead_letters.router,
    admin_payments.router,
    admin_provider_accounts.router,
    assets.router,
    auth.router,
    checkout.router,
    checkout_page.router,
    codes.router,
    confirm_page.router,
    credits.router,
    estimates.router,
    fal_webhook.router,
    generations.router,
    health.router,
    me.router,
    operations.router,
    packs.router,
    payments.router,
    problems.router,
    refunds.router,
    stripe_webhook.router,
    uploads.router,
]
