"""Controls of the sandbox for tests and scripts; not part of fal's protocol.

POST   /__control/faults                a rule or a list of rules (see `faults`)
GET    /__control/faults                the rules and how often each fired
DELETE /__control/faults                clears rules and chaos
POST   /__control/outages               an outage of routes from now on (see `outages`): {"id"}
GET    /__control/outages               those that were ordered, and how many answers each met
DELETE /__control/outages               heals all;  DELETE /__control/outages/{id} heals one
POST   /__control/chaos                 {"seed", "rate", "kinds"?, "args"?}
GET    /__control/ledger                {"calls": [...], "totals": {...}}
GET    /__control/requests/{id}         one request with its webhook attempts
GET    /__control/config                tuning and counts;  PATCH changes tuning
POST   /__control/webhook-key/rotate    {"keep_old": true}
POST   /__control/reset                 deletes requests, files, faults and the ledger
GET    /__control/health
"""

import asyncio
from typing import Any

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.params import FromPath

from sandbox.fal.config import TuningPatch
from sandbox.fal.faults import Chaos, FaultRule
from sandbox.fal.outages import Outage
from sandbox.fal.outputs import prerendered
from sandbox.fal.queue_routes import AnyRequest, describe, engine_of
from sandbox.fal.replies import reply

Reply = Response[bytes]


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keep_old: bool = True


async def warm_prerendered(side: int) -> None:
    """Draws the fixed images before the first request needs them."""
    for renderer in ("cutout", "scene"):
        for png in (False, True):
            await asyncio.to_thread(prerendered, renderer, png=png, side=side)


@post("/__control/faults", status_code=200)
async def add_faults(request: AnyRequest) -> Reply:
    try:
        rules = msgspec.json.decode(await request.body(), type=list[FaultRule] | FaultRule)
    except msgspec.ValidationError as error:
        return reply(422, {"detail": str(error)})
    plan = engine_of(request).plan
    plan.add(rules if isinstance(rules, list) else [rules])
    return reply(200, plan.describe())


@get("/__control/faults")
async def list_faults(request: AnyRequest) -> Reply:
    return reply(200, engine_of(request).plan.describe())


@delete("/__control/faults", status_code=200)
async def clear_faults(request: AnyRequest) -> Reply:
    engine_of(request).plan.clear()
    return reply(200, {"status": "OK"})


@post("/__control/outages", status_code=200)
async def begin_outage(request: AnyRequest) -> Reply:
    try:
        outage = msgspec.json.decode(await request.body(), type=Outage)
    except msgspec.ValidationError as error:
        return reply(422, {"detail": str(error)})
    return reply(200, {"id": engine_of(request).outages.begin(outage).id})


@get("/__control/outages")
async def list_outages(request: AnyRequest) -> Reply:
    return reply(200, engine_of(request).outages.describe())


@delete("/__control/outages/{outage_id:str}", status_code=200)
async def heal_outage(request: AnyRequest, outage_id: FromPath[str]) -> Reply:
    healed = engine_of(request).outages.heal(outage_id)
    return reply(200 if healed else 404, {"status": "OK" if healed else "NOT_FOUND"})


@delete("/__control/outages", status_code=200)
async def heal_outages(request: AnyRequest) -> Reply:
    engine_of(request).outages.clear()
    return reply(200, {"status": "OK"})


@post("/__control/chaos", status_code=200)
async def start_chaos(request: AnyRequest) -> Reply:
    try:
        chaos = msgspec.json.decode(await request.body(), type=Chaos)
    except msgspec.ValidationError as error:
        return reply(422, {"detail": str(error)})
    engine_of(request).plan.start_chaos(chaos)
    return reply(200, {"status": "OK"})


@get("/__control/ledger")
async def show_ledger(request: AnyRequest) -> Reply:
    ledger = engine_of(request).ledger
    return reply(200, {"calls": list(ledger.rows()), "totals": ledger.totals()})


@get("/__control/requests/{request_id:str}")
async def show_request(request: AnyRequest, request_id: FromPath[str]) -> Reply:
    engine = engine_of(request)
    call = engine.find_any(request_id)
    if call is None:
        return reply(404, {"status": "NOT_FOUND"})
    delivery = call.delivery
    body: dict[str, Any] = {
        "status": describe(engine, call, with_logs=True),
        "ledger": call.ledger,
        "attempts": call.attempts,
        "webhook": {
            "settled": call.webhook_settled.is_set(),
            "delivered": delivery is not None and delivery.delivered,
            "attempts": [] if delivery is None else delivery.attempts,
        },
    }
    return reply(200, body)


@get("/__control/config")
async def show_config(request: AnyRequest) -> Reply:
    engine = engine_of(request)
    return reply(200, {"tuning": engine.tuning, **engine.counts()})


@patch("/__control/config")
async def tune(request: AnyRequest) -> Reply:
    engine = engine_of(request)
    try:
        change = msgspec.json.decode(await request.body(), type=TuningPatch)
    except msgspec.ValidationError as error:
        return reply(422, {"detail": str(error)})
    if change.prerendered:
        await warm_prerendered(engine.config.prerendered_side)
    change.apply(engine.tuning)
    engine.retune()
    return reply(200, {"tuning": engine.tuning})


@post("/__control/webhook-key/rotate", status_code=200)
async def rotate_key(request: AnyRequest) -> Reply:
    raw = await request.body()
    signer = engine_of(request).signer
    signer.rotate(keep_old=msgspec.json.decode(raw or b"{}", type=Rotation).keep_old)
    return reply(200, signer.jwks())


@post("/__control/reset", status_code=200)
async def reset(request: AnyRequest) -> Reply:
    engine_of(request).reset()
    return reply(200, {"status": "OK"})


@get("/__control/health")
async def health(request: AnyRequest) -> Reply:
    return reply(200, {"status": "OK", **engine_of(request).counts()})


CONTROL_ROUTES = [
    add_faults,
    begin_outage,
    clear_faults,
    heal_outage,
    heal_outages,
    health,
    list_faults,
    list_outages,
    reset,
    rotate_key,
    show_config,
    show_ledger,
    show_request,
    tune,
    start_chaos,
]
