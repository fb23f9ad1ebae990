"""Every router of the application. A new noun adds its router here."""

from litestar import Router

from api.routes import (
    assets,
    auth,
    confirm_page,
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
    assets.router,
    auth.router,
    confirm_page.router,
    estimates.router,
    generations.router,
    health.router,
    me.router,
    operations.router,
    problems.router,
    uploads.router,
    webhooks.router,
]
