"""Credit notes of paid invoices: what says on paper that a part of them went back."""

import stripe

from sandbox.stripe.common import Params, get, merged_metadata, named, new_metadata
from sandbox.stripe.engine import Cause, Sandbox, blank, new_id, public
from sandbox.stripe.errors import invalid
from sandbox.stripe.listing import list_kind
from sandbox.stripe.store import Obj

KIND = "credit_note"


def create(box: Sandbox, cause: Cause, params: Params) -> Obj:
    invoice = named(box, "invoice", params["invoice"], "invoice")
    if params.get("lines"):
        raise invalid("The sandbox serves credit notes by amount only.", param="lines")
    amount = params.get("amount", 0)
    if amount < 1:
        raise invalid("Invalid positive integer", code="parameter_invalid_integer", param="amount")
    _require_left(box, invoice, amount)
    refunds = [_linked(box, link) for link in params.get("refunds", [])]
    covered = sum(link["amount_refunded"] for link in refunds)
    covered += params.get("credit_amount", 0) + params.get("out_of_band_amount", 0)
    if covered != amount:
        raise invalid(
            "The sum of credit amount, refund amount and out of band amount "
            f"({covered}) must equal the post payment amount of the credit note ({amount})."
        )
    known = box.store.where(KIND, "invoice", invoice["id"])
    note = blank(stripe.CreditNote, KIND, new_id("cn_1"))
    note |= {
        "amount": amount,
        "created": box.now(),
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "invoice": invoice["id"],
        "livemode": False,
        "memo": params.get("memo"),
        "metadata": merged_metadata({}, new_metadata(params)),
        "number": f"{invoice['number']}-CN-{len(known) + 1:02d}",
        "post_payment_amount": amount,
        "pre_payment_amount": 0,
        "reason": params.get("reason"),
        "refunds": [
            {
                "amount_refunded": link["amount_refunded"],
                "refund": link["refund"]["id"],
                "type": "refund",
            }
            for link in refunds
        ],
        "status": "issued",
        "subtotal": amount,
        "total": amount,
        "type": "post_payment",
    }
    box.store.save(note)
    invoice["post_payment_credit_notes_amount"] += amount
    box.store.save(invoice)
    box.emit(cause, "credit_note.created", note)
    return public(note)


def retrieve(box: Sandbox, _cause: Cause, _params: Params, id_: str) -> Obj:
    return public(get(box, KIND, id_))


def list_notes(box: Sandbox, _cause: Cause, params: Params) -> Obj:
    return list_kind(box, KIND, params, "/v1/credit_notes", by=("invoice", "customer"))


def _require_left(box: Sandbox, invoice: Obj, amount: int) -> None:
    noted = sum(note["amount"] for note in box.store.where(KIND, "invoice", invoice["id"]))
    left = invoice["total"] - noted
    if amount > left:
        raise invalid(
            f"The credit note amount ({amount}) is greater than what is left of the invoice "
            f"({left}).",
            param="amount",
        )


def _linked(box: Sandbox, link: Params) -> Obj:
    """A refund that exists already; each part of it stands on one credit note only."""
    refund = named(box, "refund", link.get("refund", ""), "refunds[0][refund]")
    amount = link.get("amount_refunded", refund["amount"])
    noted = sum(
        known["amount_refunded"]
        for note in box.store.all(KIND)
        for known in note["refunds"]
        if known["refund"] == refund["id"]
    )
    if amount + noted > refund["amount"]:
        raise invalid(
            f"The refund {refund['id']} has already been allocated to a credit note.",
            param="refunds[0][amount_refunded]",
        )
    return {"refund": refund, "amount_refunded": amount}
