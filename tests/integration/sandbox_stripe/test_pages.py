"""The pages, used as a browser without scripts would use them."""

import re
from html import unescape

import httpx
import pytest

from tests.integration.sandbox_stripe.support import CANCEL, SUCCESS, Stripe


async def act(pay: Stripe, url: str, action: str, **fields: str) -> httpx.Response:
    page = await pay.http.get(url)
    assert f'value="{action}"' in page.text
    return await pay.http.post(url, data={"action": action, **fields})


def links(page: httpx.Response) -> dict[str, str]:
    found = re.findall(r'<a class="button" id="([^"]*)" href="([^"]*)"', page.text)
    return {name: unescape(url) for name, url in found}


async def test_pay(pay: Stripe) -> None:
    session = await pay.session()
    page = await pay.http.get(session.url)
    assert page.status_code == 200
    assert "10.00 USD" in page.text
    assert "100 credits" in page.text
    assert links(page) == {"cancel": CANCEL}
    assert "http" not in page.text.replace(CANCEL, "")
    assert "default-src 'none'" in page.headers["content-security-policy"]

    answer = await act(pay, session.url, "pay", email="ada@example.com", name="Ada")
    assert answer.status_code == 303
    assert answer.headers["location"] == SUCCESS.replace("{CHECKOUT_SESSION_ID}", session.id)
    paid = await pay.v1.checkout.sessions.retrieve_async(session.id)
    assert paid.payment_status == "paid"
    assert paid.customer_details.email == "ada@example.com"
    await pay.settled()
    request = pay.inbox.last("checkout.session.completed").event["request"]
    assert request == {"id": None, "idempotency_key": None}


async def test_a_second_click_pays_nothing(pay: Stripe) -> None:
    session = await pay.session()
    for _ in range(2):
        answer = await pay.http.post(session.url, data={"action": "pay"})
    assert "complete" in answer.text
    assert "back" in links(answer)
    assert len((await pay.v1.charges.list_async()).data) == 1


async def test_pay_later(pay: Stripe) -> None:
    session = await pay.session()
    assert (await act(pay, session.url, "pay_later")).status_code == 303
    session = await pay.v1.checkout.sessions.retrieve_async(session.id)
    assert (session.status, session.payment_status) == ("complete", "unpaid")


async def test_decline_and_try_again(pay: Stripe) -> None:
    session = await pay.session()
    answer = await act(pay, session.url, "decline")
    assert answer.status_code == 200
    assert "declined" in answer.text
    assert (await act(pay, session.url, "pay")).status_code == 303


async def test_promotion_code(pay: Stripe) -> None:
    coupon = await pay.v1.coupons.create_async({"percent_off": 100})
    await pay.v1.promotion_codes.create_async(
        {"promotion": {"type": "coupon", "coupon": coupon.id}, "code": "FREE"}
    )
    session = await pay.session(allow_promotion_codes=True)
    wrong = await act(pay, session.url, "apply_code", promotion_code='"><b>')
    assert "This code is invalid." in wrong.text
    assert "<b>" not in wrong.text

    answer = await act(pay, session.url, "apply_code", promotion_code=" free ")
    assert answer.headers["location"].endswith(session.id)
    page = await pay.http.get(session.url)
    assert "0.00 USD" in page.text
    assert "Complete the order" in page.text
    await act(pay, session.url, "remove_code")
    assert "Complete the order" not in (await pay.http.get(session.url)).text
    await act(pay, session.url, "apply_code", promotion_code="FREE")
    assert (await act(pay, session.url, "pay")).status_code == 303
    session = await pay.v1.checkout.sessions.retrieve_async(session.id)
    assert session.payment_status == "no_payment_required"


async def test_without_promotion_codes(pay: Stripe) -> None:
    session = await pay.session()
    assert "apply_code" not in (await pay.http.get(session.url)).text
    answer = await pay.http.post(session.url, data={"action": "apply_code"})
    assert "takes no promotion codes" in answer.text


async def test_expired(pay: Stripe) -> None:
    session = await pay.session(expires_at=pay.box.now() + 1800)
    await pay.control("clock", {"advance_seconds": 1800})
    for page in (
        await pay.http.get(session.url),
        await pay.http.post(session.url, data={"action": "pay"}),
    ):
        assert "expired" in page.text
        assert links(page) == {"back": CANCEL}
    session = await pay.v1.checkout.sessions.retrieve_async(session.id)
    assert session.payment_status == "unpaid"


@pytest.mark.parametrize(
    "path", ["c/pay/cs_x", "i/in_x", "i/in_x/pdf", "receipts/x", "p/session/x"]
)
async def test_nothing_there(pay: Stripe, path: str) -> None:
    assert (await pay.http.get(f"/{path}")).status_code == 404


async def test_portal_and_receipt(pay: Stripe) -> None:
    buyer = await pay.v1.customers.create_async({"email": "ada@example.com"})
    await pay.paid(customer=buyer.id, invoice_creation={"enabled": True})
    await pay.tune(portal_saved=True)
    session = await pay.v1.billing_portal.sessions.create_async(
        {"customer": buyer.id, "return_url": CANCEL}
    )
    assert session.id not in session.url
    page = await pay.http.get(session.url)
    invoice = (await pay.v1.invoices.list_async({"customer": buyer.id})).data[0]
    assert invoice.number in page.text
    assert invoice.hosted_invoice_url in page.text
    assert links(page) == {"back": CANCEL}
    assert invoice.number in (await pay.http.get(invoice.hosted_invoice_url)).text
    pdf = await pay.http.get(invoice.invoice_pdf)
    assert pdf.headers["content-type"] == "application/pdf"
    assert invoice.number.encode() in pdf.content

    charge = (await pay.v1.charges.list_async({"customer": buyer.id})).data[0]
    await pay.v1.refunds.create_async({"charge": charge.id, "amount": 250})
    receipt = await pay.http.get(charge.receipt_url)
    assert "2.50 USD" in receipt.text
    assert "7.50 USD" in receipt.text


async def test_names_are_text(pay: Stripe) -> None:
    price = await pay.price(product_data={"name": "<b>bold</b>"})
    session = await pay.session(price, customer_email='"><i>@example.com')
    page = (await pay.http.get(session.url)).text
    assert "&lt;b&gt;bold" in page
    assert "<b>" not in page
    assert "<i>" not in page
