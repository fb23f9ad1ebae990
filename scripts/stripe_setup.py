"""Makes Stripe's products, prices and webhook endpoint from the catalogue of packs.

    python -m scripts.stripe_setup

Repeatable: what is right stays; a changed price is replaced by a new one, which takes over the
lookup key, and the old one is archived. Stripe shows the signing secret of a new endpoint once.
"""

import asyncio
import sys
from typing import Any

from core.db import Database
from core.payments import service
from core.payments.provider import Missing, PaymentProviderError, ProviderRefusedError
from core.payments.stripe.client import StripeClient
from core.payments.stripe.events import KNOWN_TYPES
from core.payments.stripe.wire import API_VERSION, call, pages
from core.payments.types import Pack
from core.settings import Settings, SettingsError, load_settings

PATH = "/v1/webhooks/stripe"
# Digital goods, general: what Stripe Tax takes a rate from. https://docs.stripe.com/tax/tax-codes
TAX_CODE = "txcd_10000000"


async def ensure_product(client: StripeClient, pack: Pack) -> str:
    """The product's id, which follows from the pack. Raises: PaymentProviderError."""
    product_id = f"jewelshot_{pack.slug}"
    wanted: dict[str, Any] = {"name": pack.title, "active": True, "tax_code": TAX_CODE}
    try:
        found = await call(client.v1.products.retrieve_async, product_id)
    except ProviderRefusedError as error:
        if error.missing is not Missing.SUBJECT:
            raise
        await call(client.v1.products.create_async, {"id": product_id, **wanted})
    else:
        if (found.get("name"), found.get("active")) != (pack.title, True):
            await call(client.v1.products.update_async, product_id, wanted)
    return product_id


async def ensure_price(client: StripeClient, pack: Pack, product_id: str) -> tuple[str, bool]:
    """The price's id, and whether it was made just now. Raises: PaymentProviderError."""
    client.discard_prices()
    known = await client.find_price(pack.lookup_key)
    if known is not None and (known.unit_amount, known.currency) == (
        pack.unit_amount,
        pack.currency,
    ):
        return known.id, False
    made = await call(
        client.v1.prices.create_async,
        {
            "product": product_id,
            "unit_amount": pack.unit_amount,
            "currency": pack.currency,
            "lookup_key": pack.lookup_key,
            "transfer_lookup_key": True,
            "tax_behavior": "exclusive",
            "metadata": {"pack": pack.slug, "pack_version": str(pack.version)},
        },
    )
    if known is not None:
        await call(client.v1.prices.update_async, known.id, {"active": False})
    client.discard_prices()
    return made["id"], True


async def ensure_endpoint(client: StripeClient, url: str) -> str | None:
    """The signing secret of an endpoint that was made just now, else None.

    Raises: PaymentProviderError.
    """
    wanted = sorted(KNOWN_TYPES)
    async for found in pages(client.v1.webhook_endpoints.list_async, {}):
        if found["url"] != url or found.get("api_version") != API_VERSION:
            continue
        if sorted(found["enabled_events"]) != wanted or found.get("status") == "disabled":
            changes = {"enabled_events": wanted, "disabled": False}
            await call(client.v1.webhook_endpoints.update_async, found["id"], changes)
        return None
    made = await call(
        client.v1.webhook_endpoints.create_async,
        {"url": url, "enabled_events": wanted, "api_version": API_VERSION},
    )
    secret: str = made["secret"]
    return secret


async def set_up(
    settings: Settings, client: StripeClient, packs: list[Pack], *, endpoint: bool = True
) -> str | None:
    """Everything, printing what was done; the signing secret if the endpoint is new."""
    for pack in packs:
        price_id, is_new = await ensure_price(client, pack, await ensure_product(client, pack))
        money = f"{pack.unit_amount / 100:.2f} {pack.currency.upper()}"
        print(f"{pack.lookup_key}: {money}, {price_id}{', made' if is_new else ''}")
    if not endpoint:
        return None
    url = settings.public_base_url + PATH
    secret = await ensure_endpoint(client, url)
    print(f"webhook endpoint {url}: {'made' if secret else 'ready'}")
    return secret


async def _main(settings: Settings) -> None:
    if settings.stripe_secret_key is None:
        raise SettingsError("settings: STRIPE_SECRET_KEY: required here")
    client = StripeClient(settings)
    db = Database(settings.database_url.get_secret_value(), pool_size=1, name="setup")
    try:
        await db.open()
        secret = await set_up(settings, client, await db.run(service.list_packs))
    finally:
        await client.close()
        await db.close()
    if secret is not None:
        print(f"\nAdd to the environment, it is not shown again:\nSTRIPE_WEBHOOK_SECRETS={secret}")


def main() -> int:
    try:
        asyncio.run(_main(load_settings()))
    except SettingsError as error:
        print(f"stripe_setup: {error}", file=sys.stderr)
    except PaymentProviderError as error:
        print(
            f"stripe_setup: Stripe says {error.reason}; check STRIPE_SECRET_KEY and its permissions"
            " (products, prices, webhook endpoints: write)",
            file=sys.stderr,
        )
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
