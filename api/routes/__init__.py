"""Every router of the application. A new noun adds its router here."""

from litestar import Router

from api.routes import (
    admin_credits,
    admin_work,
    assets,
    auth,
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
    admin_credits.router,
    admin_work.router,
    assets.router,
    auth.router,
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
