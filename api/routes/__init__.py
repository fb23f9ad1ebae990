"""Every router of the application. A new noun adds its router here."""

from litestar import Router

from api.routes import (
    account_events,
    admin_codes,
    admin_credits,
    admin_work,
    assets,
    auth,
    codes,
    confirm_page,
    credits,  # noqa: A004  the noun names the module
    estimates,
    generations,
    health,
    me,
    operations,
    problems,
    uploads,
    webhooks,
)

ROUTERS: list[Router] = [
    account_events.router,
    admin_codes.router,
    admin_credits.router,
    admin_work.router,
    assets.router,
    auth.router,
    codes.router,
    confirm_page.router,
    credits.router,
    estimates.router,
    generations.router,
    health.router,
    me.router,
    operations.router,
    problems.router,
    uploads.router,
    webhooks.router,
]
