"""Every router of the application. A new noun adds its router here."""

from litestar import Router

from api.routes import assets, auth, confirm_page, health, me, problems

ROUTERS: list[Router] = [
    assets.router,
    auth.router,
    confirm_page.router,
    health.router,
    me.router,
    problems.router,
]
