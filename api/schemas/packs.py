"""Credit packs as the API shows them."""

from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated

import msgspec
from msgspec import Meta

from core.payments.types import Pack

SLUG_LENGTH_MAX = 64
_CENT = Decimal("0.01")


class PackView(msgspec.Struct, frozen=True):
    """Credits for money. Money is in the currency's smallest unit, before discount and tax."""

    slug: Annotated[str, Meta(examples=["credits_50"])]
    title: Annotated[str, Meta(examples=["50 credits"])]
    credits: Annotated[int, Meta(examples=[50])]
    unit_amount: Annotated[int, Meta(description="Of the whole pack.", examples=[1990])]
    currency: Annotated[str, Meta(description="ISO 4217, lower case.", examples=["eur"])]
    price_per_credit: Annotated[
        str,
        Meta(description="In the smallest unit, to two places, to compare.", examples=["39.80"]),
    ]


def pack_view(pack: Pack) -> PackView:
    per_credit = Decimal(pack.unit_amount) / pack.credits
    return PackView(
        slug=pack.slug,
        title=pack.title,
        credits=pack.credits,
        unit_amount=pack.unit_amount,
        currency=pack.currency,
        price_per_credit=str(per_credit.quantize(_CENT, ROUND_HALF_UP)),
    )
