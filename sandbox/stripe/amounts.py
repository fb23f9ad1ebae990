"""What a Checkout Session costs: lines, discount, tax."""

from decimal import ROUND_HALF_UP, Decimal

from sandbox.stripe.store import Obj


def _rounded(value: Decimal) -> int:
    return int(value.quantize(Decimal(1), ROUND_HALF_UP))


def discount_on(coupon: Obj, subtotal: int) -> int:
    if coupon["amount_off"] is not None:
        return int(min(coupon["amount_off"], subtotal))
    return _rounded(Decimal(subtotal) * Decimal(str(coupon["percent_off"])) / 100)


def _shares(total: int, weights: list[int]) -> list[int]:
    """`total` in proportion; the last takes what rounding leaves."""
    whole = sum(weights)
    if whole == 0:
        return [0 for _ in weights]
    shares = [total * weight // whole for weight in weights]
    shares[-1] += total - sum(shares)
    return shares


def calculate(lines: list[Obj], coupon: Obj | None, tax_percent: float | None) -> dict[str, int]:
    """Fills in the lines' amounts. The sums: subtotal, discount, tax, total.

    Tax comes on top unless the price says `inclusive`.
    """
    subtotals = [line["price"]["unit_amount"] * line["quantity"] for line in lines]
    subtotal = sum(subtotals)
    off = 0 if coupon is None else discount_on(coupon, subtotal)
    rate = Decimal(str(tax_percent or 0)) / 100
    for line, before, share in zip(lines, subtotals, _shares(off, subtotals), strict=True):
        net = before - share
        inclusive = line["price"]["tax_behavior"] == "inclusive"
        tax = _rounded(net - net / (1 + rate)) if inclusive else _rounded(net * rate)
        line |= {
            "amount_subtotal": before,
            "amount_discount": share,
            "amount_tax": tax,
            "amount_total": net if inclusive else net + tax,
        }
    return {
        "subtotal": subtotal,
        "discount": off,
        "tax": sum(line["amount_tax"] for line in lines),
        "total": sum(line["amount_total"] for line in lines),
    }
