"""Where the provider sends the buyer back to."""

import uuid
from typing import Any

import pytest

from core.payments.context import CheckoutContext

ORDER = uuid.UUID("0192f3a1-b2c3-7d4e-8f90-a1b2c3d4e5f6")
NOTHING: Any = None


@pytest.mark.parametrize(
    ("address", "back"),
    [
        ("https://shop.example/back", "https://shop.example/back?order={order}"),
        ("https://shop.example/b?lang=de", "https://shop.example/b?lang=de&order={order}"),
        ("https://shop.example/b?empty=", "https://shop.example/b?empty=&order={order}"),
        ("https://shop.example/b#/paid", "https://shop.example/b?order={order}#/paid"),
        ("https://shop.example/b?a=%26", "https://shop.example/b?a=%26&order={order}"),
    ],
)
def test_the_order_is_added_to_what_the_address_carries(address: str, back: str) -> None:
    context = CheckoutContext(NOTHING, NOTHING, address, NOTHING)
    assert context.landing_url_of(ORDER) == back.format(order=ORDER)
    turned = context.landing_url_of(ORDER, cancelled="true")
    assert turned == back.format(order=f"{ORDER}&cancelled=true")
