"""The operator's script: what is right stays, what differs is made anew, secrets are shown once."""

from typing import Any

import pytest

from core.payments import service
from core.payments.stripe.events import KNOWN_TYPES
from core.payments.stripe.wire import API_VERSION, call, pages
from core.settings import TaxBehavior
from scripts.stripe_setup import TAX_CODE, money, set_up
from tests.harness.payments import DirectBuyer, PaymentsHarness
from tests.integration.payments.conftest import OpenPayments


async def test_twice_is_once(payments: PaymentsHarness, capsys: pytest.CaptureFixture[str]) -> None:
    packs = await payments.api_db.run(service.list_packs)
    prices = {pack.slug: await payments.provider.find_price(pack.lookup_key) for pack in packs}
    assert None not in prices.values()
    secret = await set_up(payments.ctx.settings, payments.provider, packs)
    assert secret is not None
    assert secret.startswith("whsec_")
    assert await set_up(payments.ctx.settings, payments.provider, packs) is None
    assert "made" not in capsys.readouterr().out.splitlines()[-1]
    endpoints = [
        each async for each in pages(payments.provider.v1.webhook_endpoints.list_async, {})
    ]
    (endpoint,) = endpoints
    assert endpoint["api_version"] == API_VERSION
    assert set(endpoint["enabled_events"]) == KNOWN_TYPES
    products = [each async for each in pages(payments.provider.v1.products.list_async, {})]
    assert len(products) == len(packs)
    payments.provider.discard_prices()
    again = {pack.slug: await payments.provider.find_price(pack.lookup_key) for pack in packs}
    assert again == prices


async def test_a_new_price_takes_the_lookup_key_over(
    payments: PaymentsHarness, ada: DirectBuyer
) -> None:
    """Orders that are open keep the price that they were made at."""
    order = await ada.order("credits_50")
    payments.database.rows("update app.packs set is_active = false where slug = 'credits_50'")
    payments.database.rows(
        "insert into app.packs (slug, version, title, credits, unit_amount, currency, lookup_key)"
        " values ('credits_50', 2, '50 credits', 50, 2190, 'eur', 'credits_50')"
    )
    await set_up(
        payments.ctx.settings,
        payments.provider,
        await payments.api_db.run(service.list_packs),
        endpoint=False,
    )
    newer = await ada.order("credits_50")
    assert newer.id != order.id
    assert newer.price_id != order.price_id
    old = await call(payments.provider.v1.prices.retrieve_async, order.price_id)
    assert old["active"] is False
    for each, amount in ((order, 1990), (newer, 2190)):
        await payments.pay(each)
        await payments.sync(each)
        assert payments.find(each).amount_total == amount
    assert payments.lots() == [50, 50]


async def test_an_endpoint_that_was_changed_is_set_right(payments: PaymentsHarness) -> None:
    await set_up(payments.ctx.settings, payments.provider, [])
    (endpoint,) = [
        each async for each in pages(payments.provider.v1.webhook_endpoints.list_async, {})
    ]
    await call(
        payments.provider.v1.webhook_endpoints.update_async,
        endpoint["id"],
        {"enabled_events": ["charge.refunded"], "disabled": True},
    )
    assert await set_up(payments.ctx.settings, payments.provider, []) is None
    (endpoint,) = [
        each async for each in pages(payments.provider.v1.webhook_endpoints.list_async, {})
    ]
    assert set(endpoint["enabled_events"]) == KNOWN_TYPES
    assert endpoint["status"] == "enabled"


async def _prices(payments: PaymentsHarness) -> list[dict[str, Any]]:
    params = {"lookup_keys": ["credits_50"], "active": True}
    return [each async for each in pages(payments.provider.v1.prices.list_async, params)]


async def test_prices_follow_the_tax_behavior(payments: PaymentsHarness) -> None:
    packs = await payments.api_db.run(service.list_packs)
    (before,) = await _prices(payments)
    assert before["tax_behavior"] == "exclusive"
    settings = payments.ctx.settings.model_copy(
        update={"stripe_tax_behavior": TaxBehavior.INCLUSIVE}
    )
    await set_up(settings, payments.provider, packs, endpoint=False)
    (after,) = await _prices(payments)
    assert (after["tax_behavior"], after["unit_amount"]) == ("inclusive", 1990)
    assert after["id"] != before["id"]
    await set_up(settings, payments.provider, packs, endpoint=False)
    assert await _prices(payments) == [after]


async def test_a_price_that_says_nothing_of_tax_is_told_once(payments: PaymentsHarness) -> None:
    _, unspecified = await payments.replace_price("credits_50", tax_behavior="unspecified")
    packs = await payments.api_db.run(service.list_packs)
    await set_up(payments.ctx.settings, payments.provider, packs, endpoint=False)
    (price,) = await _prices(payments)
    assert (price["id"], price["tax_behavior"]) == (unspecified, "exclusive")


async def test_an_inclusive_price_is_sold_with_its_tax_within(open_payments: OpenPayments) -> None:
    async with open_payments(
        stripe_tax=True, stripe_tax_behavior=TaxBehavior.INCLUSIVE
    ) as payments:
        ada = payments.buyer()
        order = await ada.buy()
        assert (order.state, order.amount_total) == ("paid", 1990)
        bob = payments.buyer()
        shown_net = await bob.order()
        await payments.pay(shown_net)
        session = await call(
            payments.provider.v1.checkout.sessions.retrieve_async, shown_net.session_id
        )
        tax = session["total_details"]["amount_tax"]
        assert tax > 0
        await payments.change(
            "checkout.session", shown_net.session_id, {"amount_subtotal": 1990 - tax}
        )
        await payments.sync(shown_net)
        assert bob.balance() == (50, 0, 0)


async def test_a_product_with_another_tax_code_is_set_right(payments: PaymentsHarness) -> None:
    product = payments.provider.v1.products
    wrong: Any = {"tax_code": "txcd_99999999"}
    await call(product.update_async, "jewelshot_credits_50", wrong)
    packs = await payments.api_db.run(service.list_packs)
    await set_up(payments.ctx.settings, payments.provider, packs, endpoint=False)
    found = await call(product.retrieve_async, "jewelshot_credits_50")
    assert found["tax_code"] == TAX_CODE


async def test_the_portal_is_configured_once(payments: PaymentsHarness) -> None:
    packs = await payments.api_db.run(service.list_packs)
    await set_up(payments.ctx.settings, payments.provider, packs, endpoint=False)
    listed = payments.provider.v1.billing_portal.configurations.list_async
    assert len([each async for each in pages(listed, {})]) == 1


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [(1990, "eur", "19.90 EUR"), (1990, "jpy", "1990 JPY"), (5, "usd", "0.05 USD")],
)
def test_money_is_shown_as_its_currency_counts(amount: int, currency: str, shown: str) -> None:
    assert money(amount, currency) == shown
