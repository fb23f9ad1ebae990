"""Every router of the application. A new noun adds its router here."""

from litestar import Router

from api.routes import assets, me, problems

ROUTERS: list[Router] = [
    assets.router,
    me.router,
    problems.router,
]
