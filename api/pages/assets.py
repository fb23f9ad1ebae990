"""The stylesheet of our own pages."""

from litestar import Response, Router, get

from api import pages


@get("/assets/page.css", include_in_schema=False, opt={"rate_limit": False})
async def get_stylesheet() -> Response[bytes]:
    return Response(
        pages.asset("page.css"),
        media_type="text/css",
        headers={"Cache-Control": "public, max-age=3600"},
    )


router = Router("/", route_handlers=[get_stylesheet])
