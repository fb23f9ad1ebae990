"""/checkout/return: where Stripe's pages send people back to, if the shop has no page of its own.

Whoever opens it learns nothing about a payment: it shows no data and grants nothing.
"""

import msgspec
from litestar import Response, Router, get
from litestar.params import FromQuery

from api import pages
from api.resources import AppSettings


class _Words(msgspec.Struct, frozen=True, kw_only=True):
    title: str
    lead: str
    hint: str


_CANCELLED = _Words(
    title="Nothing was paid",
    lead="You left the payment page, and nothing was charged.",
    hint="The page stays open for a while: start the same purchase again and you come back to it.",
)
_PAID = _Words(
    title="Thank you",
    lead="Your payment is on its way to us. Once it is confirmed, the credits are in your account"
    " by themselves, usually within seconds.",
    hint="Some methods, such as a bank debit, take up to some days to confirm. There is no need to"
    " pay again: your payments in the app show how far it is. You can close this page.",
)
_BACK = _Words(
    title="Welcome back",
    lead="You are done at the payment service.",
    hint="You can close this page.",
)


@get("/checkout/return", include_in_schema=False, media_type="text/html")
async def show_checkout_return(
    settings: AppSettings, *, order: FromQuery[str] = "", cancelled: FromQuery[str] = ""
) -> Response[str]:
    words = _CANCELLED if cancelled == "true" else _PAID if order else _BACK
    link = ""
    if settings.site_url is not None:
        link = f'<a class="button" href="{pages.escape(settings.site_url)}">Back to the shop</a>'
    return pages.render(
        "checkout.html", title=words.title, lead=words.lead, hint=words.hint, link_html=link
    )


router = Router("/", route_handlers=[show_checkout_return])
