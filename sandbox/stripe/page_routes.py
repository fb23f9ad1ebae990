"""The pages that a customer sees: checkout, invoice, receipt, portal."""

from typing import Any

from litestar import Response, get, post
from litestar.params import FromPath

from sandbox.stripe import checkout, pages, portal
from sandbox.stripe.control import own_cause
from sandbox.stripe.errors import ApiError
from sandbox.stripe.forms import parse_pairs
from sandbox.stripe.pdf import one_page
from sandbox.stripe.replies import AnyRequest, Reply, page, sandbox_of, see_other
from sandbox.stripe.store import Obj

DECLINED = "Your card was declined. Try another way to pay."


@get("/c/pay/{id_:str}")
async def show_checkout(request: AnyRequest, id_: FromPath[str]) -> Reply:
    own_cause(request)  # expires what is due
    session = sandbox_of(request).store.find("checkout.session", id_)
    return _session_page(session)


@post("/c/pay/{id_:str}", status_code=200)
async def act_on_checkout(request: AnyRequest, id_: FromPath[str]) -> Reply:
    box, cause = sandbox_of(request), own_cause(request)
    session = box.store.find("checkout.session", id_)
    if session is None or session["status"] != "open":
        return _session_page(session)
    form = dict(parse_pairs(await request.body()))
    try:
        match form.get("action"):
            case "pay" | "pay_later" as action:
                checkout.pay(
                    box,
                    cause,
                    session,
                    slow=action == "pay_later",
                    email=form.get("email") or None,
                    name=form.get("name") or None,
                )
                return see_other(checkout.return_url(session))
            case "decline":
                checkout.decline(box, cause, session)
                return page(pages.checkout_page(session, problem=DECLINED))
            case "apply_code":
                checkout.apply_code(box, session, form.get("promotion_code", ""))
            case "remove_code":
                checkout.remove_discount(box, session)
    except ApiError as error:
        return page(pages.checkout_page(session, problem=str(error)))
    finally:
        box.store.flush()
    return see_other(f"/c/pay/{id_}")


def _session_page(session: Obj | None) -> Reply:
    if session is None:
        return page(pages.notice("Not found", "There is no such payment page."), 404)
    match session["status"]:
        case "open":
            return page(pages.checkout_page(session))
        case "expired":
            text = "This payment page has expired. Go back to the shop and start again."
            return page(pages.notice("Expired", text, back=session["cancel_url"]))
        case _:
            url = checkout.return_url(session)
            return page(pages.notice("Paid", "This payment is complete.", back=url))


@get("/i/{id_:str}")
async def show_invoice(request: AnyRequest, id_: FromPath[str]) -> Reply:
    invoice = sandbox_of(request).store.find("invoice", id_)
    if invoice is None:
        return page(pages.notice("Not found", "There is no such invoice."), 404)
    return page(pages.invoice_page(invoice))


@get("/i/{id_:str}/pdf")
async def download_invoice(request: AnyRequest, id_: FromPath[str]) -> Response[Any]:
    invoice = sandbox_of(request).store.find("invoice", id_)
    if invoice is None:
        return page(pages.notice("Not found", "There is no such invoice."), 404)
    return Response(
        one_page(pages.invoice_lines(invoice)),
        media_type="application/pdf",
        headers={
            "content-disposition": f'attachment; filename="Invoice-{invoice["number"]}.pdf"',
        },
    )


@get("/receipts/{id_:str}")
async def show_receipt(request: AnyRequest, id_: FromPath[str]) -> Reply:
    charge = sandbox_of(request).store.find("charge", id_)
    if charge is None:
        return page(pages.notice("Not found", "There is no such receipt."), 404)
    return page(pages.receipt_page(charge))


@get("/p/session/{token:str}")
async def show_portal(request: AnyRequest, token: FromPath[str]) -> Reply:
    box = sandbox_of(request)
    session = portal.find_by_url(box, token)
    if session is None:
        return page(pages.notice("Not found", "This link has expired."), 404)
    customer = box.store.find("customer", session["customer"])
    invoices = box.store.where("invoice", "customer", session["customer"])
    return page(pages.portal_page(session, customer or {}, invoices))


PAGE_ROUTES = [
    act_on_checkout,
    download_invoice,
    show_checkout,
    show_invoice,
    show_portal,
    show_receipt,
]
