"""/checkout/return: where Stripe's pages send people back to, if the shop has no page of its own.

It shows no data of a payment and grants nothing.
"""

from litestar import Response, Router, get
from litestar.params import FromQuery

from api import pages
from api.resources import AppSettings
from core.words.say import say


@get("/checkout/return", include_in_schema=False, media_type="text/html")
async def show_checkout_return(
    settings: AppSettings, *, order: FromQuery[str] = "", cancelled: FromQuery[str] = ""
) -> Response[str]:
    end = "cancelled" if cancelled == "true" else "paid" if order else "back"
    words = f"page.checkout.{end}"
    link = ""
    if settings.site_url is not None:
        text = say("page.checkout.link")
        link = f'<a class="button" href="{pages.escape(settings.site_url)}">{text}</a>'
    return pages.render(
        "checkout.html",
        title=say(f"{words}.title"),
        lead=say(f"{words}.lead"),
        hint=say(f"{words}.hint"),
        link_html=link,
    )


router = Router("/", route_handlers=[show_checkout_return])
