"""Every router of the application. A new noun adds its router here."""

from litestar import Router

from api.routes import (
    assets,
    auth,
    confirm_page,
    generations,
    health,
    me,
    problems,
    uploads,
    webhooks,
)

ROUTERS: list[Router] = [
    assets.router,
    auth.router,
    confirm_page.router,
    generations.router,
    health.router,
    me.router,
    problems.router,
    uploads.router,
    webhooks.router,
]
