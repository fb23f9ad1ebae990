"""The operator's script: what is right stays, what differs is made anew, secrets are shown once."""

import pytest

from core.payments import service
from core.payments.stripe.events import KNOWN_TYPES
from core.payments.stripe.wire import API_VERSION, call, pages
from scripts.stripe_setup import set_up
from tests.harness.payments import DirectBuyer, PaymentsHarness


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
