"""The HTML of the pages. No script, no picture, nothing from another place."""

from html import escape

from sandbox.stripe.store import PRIVATE, Obj

# https://docs.stripe.com/currencies#zero-decimal
_ZERO_DECIMAL = frozenset({"jpy", "krw", "vnd", "clp", "xaf", "xof", "pyg", "ugx"})

_STYLE = """
*{box-sizing:border-box}
body{margin:0;font:16px/1.5 system-ui,sans-serif;color:#1a1f36;background:#f6f8fa}
main{max-width:60rem;margin:0 auto;padding:2rem 1rem;display:grid;gap:2rem;
grid-template-columns:repeat(auto-fit,minmax(18rem,1fr))}
section{background:#fff;border:1px solid #e3e8ee;border-radius:12px;padding:1.75rem}
h1{font-size:1rem;font-weight:600;margin:0 0 .25rem;color:#4f566b}
.big{font-size:2.25rem;font-weight:700;margin:0 0 1rem}
.test{display:inline-block;background:#ffde92;color:#6b4b00;border-radius:4px;
padding:.1rem .5rem;font-size:.75rem;font-weight:700;letter-spacing:.04em;margin-bottom:1rem}
table{width:100%;border-collapse:collapse}
td{padding:.4rem 0;vertical-align:top}td:last-child{text-align:right}
tr.sum td{border-top:1px solid #e3e8ee;font-weight:600}
label{display:block;font-size:.875rem;color:#4f566b;margin-bottom:.75rem}
input{display:block;width:100%;font:inherit;padding:.55rem .7rem;margin-top:.2rem;
border:1px solid #c1c9d2;border-radius:8px}
button,.button{display:block;width:100%;font:inherit;font-weight:600;text-align:center;
padding:.7rem;margin-top:.75rem;border-radius:8px;border:1px solid #c1c9d2;background:#fff;
color:#1a1f36;text-decoration:none;cursor:pointer}
button.main{background:#4b45d6;border-color:#4b45d6;color:#fff}
button:focus-visible,input:focus-visible,a:focus-visible{outline:3px solid #b3b0ff}
.problem{background:#fdecec;color:#8f1d1d;border-radius:8px;padding:.7rem 1rem;margin:0 0 1rem}
.row{display:flex;gap:.5rem;align-items:end}.row label{flex:1;margin:0}
.row button{width:auto;padding:.55rem 1rem;margin:0}
.quiet{color:#697386;font-size:.875rem}
"""


def money(amount: int, currency: str) -> str:
    if currency in _ZERO_DECIMAL:
        return f"{amount:,} {currency.upper()}"
    return f"{amount / 100:,.2f} {currency.upper()}"


def _document(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>"
    )


def _rows(rows: list[tuple[str, str]], last: tuple[str, str]) -> str:
    cells = [f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows]
    name, value = (escape(part) for part in last)
    return f'<table>{"".join(cells)}<tr class="sum"><td>{name}</td><td>{value}</td></tr></table>'


def notice(title: str, text: str, *, back: str | None = None) -> str:
    link = f'<a class="button" id="back" href="{escape(back)}">Back to the shop</a>' if back else ""
    return _document(
        title, f'<section><p class="big">{escape(title)}</p><p>{escape(text)}</p>{link}</section>'
    )


# -- checkout ---------------------------------------------------------------------------------


def checkout_page(session: Obj, *, problem: str | None = None) -> str:
    return _document("Checkout", _summary(session) + _payment(session, problem))


def _summary(session: Obj) -> str:
    currency = session["currency"]
    rows = [
        (f"{line['description']} x {line['quantity']}", money(line["amount_subtotal"], currency))
        for line in session[PRIVATE]["line_items"]
    ]
    totals = session["total_details"]
    if totals["amount_discount"]:
        rows.append(("Discount", f"-{money(totals['amount_discount'], currency)}"))
    if session["automatic_tax"]["enabled"]:
        rows.append(("Tax", money(totals["amount_tax"], currency)))
    total = money(session["amount_total"], currency)
    return (
        '<section><span class="test">SANDBOX</span><h1>To pay</h1>'
        f'<p class="big" id="total">{escape(total)}</p>'
        f"{_rows(rows, ('Total', total))}{_promotion(session)}</section>"
    )


def _promotion(session: Obj) -> str:
    if session["discounts"]:
        return (
            '<form method="post"><button name="action" value="remove_code" id="remove-code">'
            "Remove the discount</button></form>"
        )
    if not session["allow_promotion_codes"]:
        return ""
    return (
        '<form method="post" class="row"><label>Promotion code'
        '<input name="promotion_code" id="promotion-code" autocomplete="off" required></label>'
        '<button name="action" value="apply_code" id="apply-code">Apply</button></form>'
    )


def _payment(session: Obj, problem: str | None) -> str:
    free = session["amount_total"] == 0
    warning = "" if problem is None else f'<p class="problem" role="alert">{escape(problem)}</p>'
    email = session["customer_email"] or ""
    fields = (
        f'<label>E-mail<input type="email" name="email" id="email" value="{escape(email)}">'
        '</label><label>Name<input name="name" id="name" autocomplete="name"></label>'
        if session["customer"] is None
        else ""
    )
    others = (
        ""
        if free
        else '<button name="action" value="pay_later" id="pay-later">Pay by bank debit '
        "(takes some days)</button>"
        '<button name="action" value="decline" id="decline">Pay with a card that is declined'
        "</button>"
    )
    cancel = session["cancel_url"]
    link = f'<a class="button" id="cancel" href="{escape(cancel)}">Cancel</a>' if cancel else ""
    return (
        f'<section><form method="post">{warning}{fields}'
        '<button class="main" name="action" value="pay" id="pay">'
        f"{'Complete the order' if free else 'Pay'}</button>{others}</form>{link}"
        '<p class="quiet">No money moves here.</p></section>'
    )


# -- invoice, receipt, portal -----------------------------------------------------------------


def invoice_lines(invoice: Obj) -> list[str]:
    currency = invoice["currency"]
    return [
        f"Invoice {invoice['number']}",
        "",
        f"Billed to: {invoice['customer_name'] or ''} {invoice['customer_email'] or ''}".strip(),
        "",
        *(
            f"{line['description']} x {line['quantity']}: {money(line['amount'], currency)}"
            for line in invoice["lines"]["data"]
        ),
        "",
        f"Total: {money(invoice['total'], currency)}",
        f"Paid: {money(invoice['amount_paid'], currency)}",
        "Sandbox: no money moved.",
    ]


def invoice_page(invoice: Obj) -> str:
    currency = invoice["currency"]
    rows = [
        (f"{line['description']} x {line['quantity']}", money(line["amount"], currency))
        for line in invoice["lines"]["data"]
    ]
    return _document(
        f"Invoice {invoice['number']}",
        f'<section><span class="test">SANDBOX</span><h1>Invoice {escape(invoice["number"])}</h1>'
        f'<p class="big">{escape(money(invoice["total"], currency))}</p>'
        f"{_rows(rows, ('Paid', money(invoice['amount_paid'], currency)))}"
        f'<a class="button" id="pdf" href="{escape(invoice["invoice_pdf"])}">Download PDF</a>'
        "</section>",
    )


def receipt_page(charge: Obj) -> str:
    currency = charge["currency"]
    rows = [(charge["description"] or "Payment", money(charge["amount"], currency))]
    if charge["amount_refunded"]:
        rows.append(("Refunded", f"-{money(charge['amount_refunded'], currency)}"))
    kept = money(charge["amount"] - charge["amount_refunded"], currency)
    return _document(
        "Receipt",
        f'<section><span class="test">SANDBOX</span><h1>Receipt</h1>'
        f"{_rows(rows, (charge['status'].capitalize(), kept))}</section>",
    )


def portal_page(session: Obj, customer: Obj, invoices: list[Obj]) -> str:
    links = "".join(
        f'<tr><td><a href="{escape(item["hosted_invoice_url"])}">{escape(item["number"])}</a></td>'
        f"<td>{escape(money(item['total'], item['currency']))}</td></tr>"
        for item in reversed(invoices)
    )
    back = session["return_url"]
    link = f'<a class="button" id="back" href="{escape(back)}">Back to the shop</a>' if back else ""
    return _document(
        "Billing",
        '<section><span class="test">SANDBOX</span><h1>Billing</h1>'
        f"<p>{escape(customer.get('email') or customer.get('id', ''))}</p>"
        f"<table>{links or '<tr><td>No invoices yet.</td></tr>'}</table>{link}</section>",
    )
