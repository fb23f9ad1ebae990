"""Controls of the sandbox for tests and scripts; not part of Stripe's protocol.

POST   /__control/faults                      a rule or a list of rules (see `faults`)
GET    /__control/faults                      the rules and how often each fired
DELETE /__control/faults                      clears them
GET    /__control/config                      tuning;  PATCH changes it
POST   /__control/clock                       {"advance_seconds"}; what is then due expires
POST   /__control/sessions/{id}/pay           {"slow": false, "late": false, "card"?,
                                               "promotion_code"?, "email"?, "name"?}; a late
                                               one pays an expired page
POST   /__control/sessions/{id}/decline       {"code": "generic_decline"}
POST   /__control/sessions/{id}/settle        {"succeeded": true}: the end of a slow payment
POST   /__control/sessions/{id}/expire
POST   /__control/refunds/{id}                {"status": "failed", "reason"?}
POST   /__control/disputes                    {"payment_intent" or "charge", "amount"?, "inquiry"?,
                                               "reason"?}
POST   /__control/disputes/{id}               {"status": "won"}: any status of a dispute
POST   /__control/fraud-warnings              {"payment_intent" or "charge", "fraud_type"?}
GET    /__control/objects/{kind}/{id}         one object;  PATCH merges into it, without an event
GET    /__control/ledger                      payments, refunds, disputes and their totals
POST   /__control/reset                       deletes everything but configuration and tuning
GET    /__control/health
Those of events and webhooks are in `webhook_routes`.
"""

import copy
from typing import Any

import msgspec
from litestar import delete, get, patch, post
from litestar.params import FromPath

from sandbox.stripe import checkout, disputes, fraud_warnings, ledger, refunds
from sandbox.stripe.common import get as get_object
from sandbox.stripe.config import TuningPatch
from sandbox.stripe.control import answer, own_cause, read_body
from sandbox.stripe.engine import Sandbox, public
from sandbox.stripe.errors import invalid
from sandbox.stripe.faults import FaultRule
from sandbox.stripe.replies import AnyRequest, Reply, base_url_of, sandbox_of
from sandbox.stripe.store import PRIVATE, Obj
from sandbox.stripe.webhook_routes import WEBHOOK_ROUTES


class Advance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    advance_seconds: int


class Payment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    slow: bool = False
    late: bool = False
    card: str | None = None
    promotion_code: str | None = None
    email: str | None = None
    name: str | None = None


class Decline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    code: str = "generic_decline"


class Settlement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    succeeded: bool = True


class RefundEnd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    status: str = "failed"
    reason: str = "expired_or_canceled_card"


class NewDispute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    payment_intent: str | None = None
    charge: str | None = None
    amount: int | None = None
    inquiry: bool = False
    reason: str = "fraudulent"


class NewWarning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    payment_intent: str | None = None
    charge: str | None = None
    fraud_type: str = "made_with_stolen_card"


class DisputeStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    status: str


# -- misbehaviour, tuning, time ---------------------------------------------------------------


@post("/__control/faults", status_code=200)
async def add_faults(request: AnyRequest) -> Reply:
    rules = msgspec.json.decode(await request.body(), type=list[FaultRule] | FaultRule)
    plan = sandbox_of(request).plan
    plan.add(rules if isinstance(rules, list) else [rules])
    return answer(request, {"rules": plan.describe()})


@get("/__control/faults")
async def list_faults(request: AnyRequest) -> Reply:
    return answer(request, {"rules": sandbox_of(request).plan.describe()})


@delete("/__control/faults", status_code=200)
async def clear_faults(request: AnyRequest) -> Reply:
    sandbox_of(request).plan.clear()
    return answer(request, {"status": "OK"})


@get("/__control/config")
async def show_config(request: AnyRequest) -> Reply:
    return answer(request, {"tuning": sandbox_of(request).tuning})


@patch("/__control/config")
async def tune(request: AnyRequest) -> Reply:
    tuning = sandbox_of(request).tuning
    (await read_body(request, TuningPatch)).apply(tuning)
    return answer(request, {"tuning": tuning})


@post("/__control/clock", status_code=200)
async def advance(request: AnyRequest) -> Reply:
    box = sandbox_of(request)
    seconds = (await read_body(request, Advance)).advance_seconds
    if seconds < 0:
        raise invalid("time does not run backwards", param="advance_seconds")
    now = box.advance(seconds)
    checkout.sweep(box, base_url_of(request))
    return answer(request, {"now": now})


# -- acts of customers and banks --------------------------------------------------------------


@post("/__control/sessions/{id_:str}/pay", status_code=200)
async def pay(request: AnyRequest, id_: FromPath[str]) -> Reply:
    payment = await read_body(request, Payment)
    box, cause = sandbox_of(request), own_cause(request)
    session = get_object(box, "checkout.session", id_)
    if payment.promotion_code is not None:
        checkout.apply_code(box, session, payment.promotion_code)
    checkout.pay(
        box,
        cause,
        session,
        slow=payment.slow,
        late=payment.late,
        card=payment.card,
        email=payment.email,
        name=payment.name,
    )
    return answer(request, {**public(session), "return_url": checkout.return_url(session)})


@post("/__control/sessions/{id_:str}/decline", status_code=200)
async def decline(request: AnyRequest, id_: FromPath[str]) -> Reply:
    code = (await read_body(request, Decline)).code
    box, cause = sandbox_of(request), own_cause(request)
    session = get_object(box, "checkout.session", id_)
    checkout.decline(box, cause, session, code=code)
    return answer(request, public(session))


@post("/__control/sessions/{id_:str}/settle", status_code=200)
async def settle(request: AnyRequest, id_: FromPath[str]) -> Reply:
    succeeded = (await read_body(request, Settlement)).succeeded
    box, cause = sandbox_of(request), own_cause(request)
    session = get_object(box, "checkout.session", id_)
    checkout.settle(box, cause, session, succeeded=succeeded)
    return answer(request, public(session))


@post("/__control/sessions/{id_:str}/expire", status_code=200)
async def expire(request: AnyRequest, id_: FromPath[str]) -> Reply:
    box, cause = sandbox_of(request), own_cause(request)
    session = get_object(box, "checkout.session", id_)
    checkout.expire(box, cause, session)
    return answer(request, public(session))


@post("/__control/refunds/{id_:str}", status_code=200)
async def end_refund(request: AnyRequest, id_: FromPath[str]) -> Reply:
    end = await read_body(request, RefundEnd)
    if end.status not in {"succeeded", "failed", "canceled"}:
        raise invalid("a refund ends as succeeded, failed or canceled", param="status")
    box = sandbox_of(request)
    refund = get_object(box, "refund", id_)
    refunds.settle(box, own_cause(request), refund, end.status, reason=end.reason)
    return answer(request, public(refund))


@post("/__control/disputes", status_code=200)
async def open_dispute(request: AnyRequest) -> Reply:
    new = await read_body(request, NewDispute)
    box = sandbox_of(request)
    charge = _charge_of(box, new.charge, new.payment_intent)
    dispute = disputes.open_dispute(
        box,
        own_cause(request),
        charge,
        amount=charge["amount"] if new.amount is None else new.amount,
        reason=new.reason,
        inquiry=new.inquiry,
    )
    return answer(request, public(dispute))


def _charge_of(box: Sandbox, charge_id: str | None, intent_id: str | None) -> Obj:
    if charge_id is None:
        intent = get_object(box, "payment_intent", intent_id or "")
        charge_id = intent["latest_charge"] or ""
    return get_object(box, "charge", charge_id)


@post("/__control/fraud-warnings", status_code=200)
async def warn_of_fraud(request: AnyRequest) -> Reply:
    new = await read_body(request, NewWarning)
    box = sandbox_of(request)
    charge = _charge_of(box, new.charge, new.payment_intent)
    warning = fraud_warnings.open_warning(
        box, own_cause(request), charge, fraud_type=new.fraud_type
    )
    return answer(request, public(warning))


@post("/__control/disputes/{id_:str}", status_code=200)
async def move_dispute(request: AnyRequest, id_: FromPath[str]) -> Reply:
    status = (await read_body(request, DisputeStatus)).status
    if status not in disputes.STATUSES:
        raise invalid(f"one of {', '.join(sorted(disputes.STATUSES))}", param="status")
    box = sandbox_of(request)
    dispute = get_object(box, "dispute", id_)
    disputes.move(box, own_cause(request), dispute, status)
    return answer(request, public(dispute))


# -- reading and changing the state -----------------------------------------------------------


@get("/__control/objects/{kind:str}/{id_:str}")
async def show_object(request: AnyRequest, kind: FromPath[str], id_: FromPath[str]) -> Reply:
    return answer(request, public(get_object(sandbox_of(request), kind, id_)))


@patch("/__control/objects/{kind:str}/{id_:str}")
async def tamper(request: AnyRequest, kind: FromPath[str], id_: FromPath[str]) -> Reply:
    """Merges the body into an object. `line_items` of a session may be falsified too: those of the
    body replace the old ones, and a new one starts as a copy of the first."""
    change = await read_body(request, dict[str, Any])
    box = sandbox_of(request)
    obj = get_object(box, kind, id_)
    if "line_items" in change and PRIVATE in obj:
        known = obj[PRIVATE]["line_items"]
        changed = change.pop("line_items")
        lines = [copy.deepcopy(known[i if i < len(known) else 0]) for i in range(len(changed))]
        for line, part in zip(lines, changed, strict=True):
            _merge(line, part)
        obj[PRIVATE]["line_items"] = lines
    _merge(obj, change)
    box.store.save(obj)
    return answer(request, public(obj))


def _merge(target: dict[str, Any], change: dict[str, Any]) -> None:
    for name, value in change.items():
        if isinstance(value, dict) and isinstance(target.get(name), dict):
            _merge(target[name], value)
        else:
            target[name] = value


@get("/__control/ledger")
async def show_ledger(request: AnyRequest) -> Reply:
    return answer(request, ledger.ledger(sandbox_of(request)))


@post("/__control/reset", status_code=200)
async def reset(request: AnyRequest) -> Reply:
    sandbox_of(request).reset()
    return answer(request, {"status": "OK"})


@get("/__control/health")
async def health(request: AnyRequest) -> Reply:
    box = sandbox_of(request)
    return answer(
        request,
        {
            "status": "OK",
            "now": box.now(),
            "sessions": box.store.count("checkout.session"),
            "events": box.store.count("event"),
        },
    )


CONTROL_ROUTES = [
    add_faults,
    advance,
    clear_faults,
    decline,
    end_refund,
    expire,
    health,
    list_faults,
    move_dispute,
    open_dispute,
    pay,
    reset,
    settle,
    show_config,
    show_ledger,
    show_object,
    tamper,
    tune,
    warn_of_fraud,
    *WEBHOOK_ROUTES,
]
