"""What must be true of a paid session before anything is granted for it.

What is compared is our own row, never what the session's metadata claims was bought: credits come
from the order. `amount_total` is not compared: tax raises it and a promotion code lowers it.
"""

from core.payments.provider import CheckoutSession
from core.payments.types import Order, ReviewReason


def find_mismatch(
    order: Order, session: CheckoutSession, price_id: str | None
) -> ReviewReason | None:
    """The first thing that differs from the order, or None: grant."""
    item = session.items[0] if len(session.items) == 1 else None
    checks = {
        ReviewReason.OTHER_ORDER: session.order_reference == str(order.id)
        and session.metadata.get("order_id") == str(order.id),
        ReviewReason.OTHER_USER: session.metadata.get("user_id") == str(order.user_id),
        ReviewReason.MODE: session.is_one_time,
        ReviewReason.LINE_ITEMS: item is not None,
        ReviewReason.QUANTITY: item is not None and item.quantity == 1,
        ReviewReason.PRICE: item is not None and price_id is not None and item.price_id == price_id,
        ReviewReason.CURRENCY: session.currency == order.currency,
        # Of an inclusive price the subtotal may be shown without its tax.
        ReviewReason.AMOUNT_SUBTOTAL: session.amount_subtotal is not None
        and order.unit_amount - session.amount_subtotal in {0, session.tax_in_subtotal},
    }
    return next((name for name, holds in checks.items() if not holds), None)
