"""What must be true of a paid session before anything is granted for it.

What is compared is our own row, never what the session's metadata claims was bought: credits come
from the order. `amount_total` is not compared: tax raises it and a promotion code lowers it.
"""

from core.payments.types import Order, Session


def find_mismatch(order: Order, session: Session, price_id: str | None) -> str | None:
    """A stable word for the first thing that differs from the order, or None: grant."""
    items = session.line_items.data if session.line_items else []
    price = items[0].price if len(items) == 1 else None
    checks = {
        "other_order": session.client_reference_id == str(order.id)
        and session.metadata.get("order_id") == str(order.id),
        "other_user": session.metadata.get("user_id") == str(order.user_id),
        "mode": session.mode == "payment",
        "line_items": len(items) == 1,
        "quantity": len(items) == 1 and items[0].quantity == 1,
        "price": price is not None and price_id is not None and price.id == price_id,
        "currency": session.currency == order.currency,
        "amount_subtotal": session.amount_subtotal == order.unit_amount,
    }
    return next((name for name, holds in checks.items() if not holds), None)
