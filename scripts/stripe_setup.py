"""Makes Stripe's products, prices, webhook endpoint and portal from the catalogue of packs.

    python -m scripts.stripe_setup

Repeatable: what is right stays; a changed price is replaced by a new one, which takes over the
lookup key, and the old one is archived. Stripe shows the signing secret of a new endpoint once.
"""

import asyncio
import sys
from typing import Any

from core.db import Database
from core.payments import service
from core.payments.provider import (
    PaymentProviderError,
    ProviderAnswerError,
    ProviderCredentialsError,
    ProviderRefusedError,
    Refused,
)
from core.payments.stripe.client import SET_UP_BY, StripeClient
from core.payments.stripe.events import KNOWN_TYPES
from core.payments.stripe.wire import API_VERSION, call, pages
from core.payments.types import Pack
from core.settings import Settings, SettingsError, TaxBehavior, load_settings

PATH = "/v1/webhooks/stripe"
# Digital goods, general: what Stripe Tax takes a rate from. https://docs.stripe.com/tax/tax-codes
TAX_CODE = "txcd_10000000"
# Their smallest unit is the whole one. https://docs.stripe.com/currencies#zero-decimal
_ZERO_DECIMAL = frozenset(
    {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga"}
    | {"pyg", "rwf", "ugx", "vnd", "vuv", "xaf", "xof", "xpf"}
)
_UNSPECIFIED = "unspecified"
# What a buyer of packs needs of the portal: there are no subscriptions.
_PORTAL: dict[str, Any] = {
    "features": {
        "customer_update": {
            "enabled": True,
            "allowed_updates": ["email", "name", "address", "tax_id"],
        },
        "invoice_history": {"enabled": True},
        "payment_method_update": {"enabled": True},
    },
    "metadata": SET_UP_BY,
}


async def ensure_product(client: StripeClient, pack: Pack) -> str:
    """The product's id, which follows from the pack. Raises: PaymentProviderError."""
    product_id = f"jewelshot_{pack.slug}"
    wanted: dict[str, Any] = {"name": pack.title, "active": True, "tax_code": TAX_CODE}
    try:
        found = await call(client.v1.products.retrieve_async, product_id)
    except ProviderRefusedError as error:
        if error.part is not Refused.SUBJECT:
            raise
        await call(client.v1.products.create_async, {"id": product_id, **wanted})
    else:
        if any(found.get(name) != value for name, value in wanted.items()):
            await call(client.v1.products.update_async, product_id, wanted)
    return product_id


async def ensure_price(
    client: StripeClient, pack: Pack, product_id: str, behavior: TaxBehavior
) -> tuple[str, bool]:
    """The price's id, and whether it was made just now. Raises: PaymentProviderError."""
    params: Any = {"lookup_keys": [pack.lookup_key], "active": True, "limit": 1}
    known = next(iter((await call(client.v1.prices.list_async, params))["data"]), None)
    if known is not None and (known["unit_amount"], known["currency"]) == (
        pack.unit_amount,
        pack.currency,
    ):
        if known.get("tax_behavior") == behavior:
            return str(known["id"]), False
        if known.get("tax_behavior") == _UNSPECIFIED:  # the one time that it can be said later
            changes: Any = {"tax_behavior": behavior.value}
            await call(client.v1.prices.update_async, known["id"], changes)
            return str(known["id"]), False
    made = await call(
        client.v1.prices.create_async,
        {
            "product": product_id,
            "unit_amount": pack.unit_amount,
            "currency": pack.currency,
            "lookup_key": pack.lookup_key,
            "transfer_lookup_key": True,
            "tax_behavior": behavior.value,
            "metadata": {"pack": pack.slug, "pack_version": str(pack.version)},
        },
    )
    if known is not None:
        await call(client.v1.prices.update_async, known["id"], {"active": False})
    client.discard_prices()
    return str(made["id"]), True


async def ensure_portal(client: StripeClient, return_url: str) -> str | None:
    """The id of the portal's configuration; None where the key may not make one.

    Raises: PaymentProviderError.
    """
    known = await client.find_portal_configuration()
    if known is not None:
        return known
    create = client.v1.billing_portal.configurations.create_async
    try:
        made = await call(create, {**_PORTAL, "default_return_url": return_url})
    except (ProviderRefusedError, ProviderCredentialsError, ProviderAnswerError):
        return None
    client.discard_portal()
    return str(made["id"])


def money(amount: int, currency: str) -> str:
    shown = str(amount) if currency in _ZERO_DECIMAL else f"{amount / 100:.2f}"
    return f"{shown} {currency.upper()}"


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
        product_id = await ensure_product(client, pack)
        price_id, is_new = await ensure_price(
            client, pack, product_id, settings.stripe_tax_behavior
        )
        shown = money(pack.unit_amount, pack.currency)
        print(f"{pack.lookup_key}: {shown}, {price_id}{', made' if is_new else ''}")
    portal_id = await ensure_portal(client, settings.landing_url)
    print(f"customer portal: {portal_id or 'save its settings once in the Dashboard'}")
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
            " (products, prices, webhook endpoints, customer portal: write)",
            file=sys.stderr,
        )
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
