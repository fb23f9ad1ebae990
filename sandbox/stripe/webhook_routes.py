"""Control of events and their deliveries.

GET    /__control/events?type=&object=   newest last, each with its deliveries and attempts
POST   /__control/events                 {"type", "object": {...}, "previous_attributes"?}: any
                                         event, also one that Stripe would not send
POST   /__control/events/{id}/resend     {"endpoint"?, "copies": 1}: as the Dashboard's "Resend"
GET    /__control/webhooks               what is held and how much is on its way
POST   /__control/webhooks/release       {"order": "created" | "reversed" | "shuffled",
                                          "copies": 1, "parallel": 1, "seed": 0}; sends what
                                         `webhooks_held` of the tuning held back
POST   /__control/webhooks/settle        {"seconds": 10}: waits until nothing is on its way
POST   /__control/webhook-endpoints/{id}/roll  {"old_lives_seconds": 86400}: a new secret
"""

import asyncio
from typing import Any, Literal

import msgspec
from litestar import get, post
from litestar.params import FromPath

from sandbox.stripe import endpoints
from sandbox.stripe.common import get as get_object
from sandbox.stripe.control import answer, own_cause, read_body
from sandbox.stripe.engine import Sandbox, public
from sandbox.stripe.replies import AnyRequest, Reply, sandbox_of
from sandbox.stripe.store import Obj


class ForgedEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    object: dict[str, Any]
    previous_attributes: dict[str, Any] | None = None


class Resend(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    endpoint: str | None = None
    copies: int = 1


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    order: Literal["created", "reversed", "shuffled"] = "created"
    copies: int = 1
    parallel: int = 1
    seed: int = 0


class SettleTimeout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seconds: float = 10.0


class Roll(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    old_lives_seconds: float = 86_400.0


def _described(box: Sandbox, event: Obj) -> Obj:
    return {**public(event), "deliveries": box.webhooks.deliveries(event["id"])}


@get("/__control/events")
async def list_events(request: AnyRequest) -> Reply:
    box = sandbox_of(request)
    type_ = request.query_params.get("type")
    object_id = request.query_params.get("object")
    found = [
        _described(box, event)
        for event in box.store.all("event")
        if type_ in {None, event["type"]} and object_id in {None, event["data"]["object"].get("id")}
    ]
    return answer(request, {"events": found})


@post("/__control/events", status_code=200)
async def forge(request: AnyRequest) -> Reply:
    forged = await read_body(request, ForgedEvent)
    data: Obj = {"object": forged.object}
    if forged.previous_attributes is not None:
        data["previous_attributes"] = forged.previous_attributes
    event = sandbox_of(request).emit_data(own_cause(request), forged.type, data)
    return answer(request, public(event))


@post("/__control/events/{id_:str}/resend", status_code=200)
async def resend(request: AnyRequest, id_: FromPath[str]) -> Reply:
    body = await read_body(request, Resend)
    box = sandbox_of(request)
    event = get_object(box, "event", id_)
    deliveries = [
        delivery
        for delivery in box.webhooks.deliveries(event["id"])
        if body.endpoint in {None, delivery["endpoint"]}
    ]
    copies = [box.webhooks.attempt(delivery) for delivery in deliveries for _ in range(body.copies)]
    await asyncio.gather(*copies)
    return answer(request, {"deliveries": deliveries})


@get("/__control/webhooks")
async def show_webhooks(request: AnyRequest) -> Reply:
    webhooks = sandbox_of(request).webhooks
    return answer(request, {"held": webhooks.held(), "in_flight": webhooks.in_flight()})


@post("/__control/webhooks/release", status_code=200)
async def release(request: AnyRequest) -> Reply:
    body = await read_body(request, Release)
    released = await sandbox_of(request).webhooks.release(
        order=body.order, copies=body.copies, parallel=body.parallel, seed=body.seed
    )
    return answer(request, {"deliveries": released})


@post("/__control/webhooks/settle", status_code=200)
async def settle(request: AnyRequest) -> Reply:
    seconds = (await read_body(request, SettleTimeout)).seconds
    return answer(request, {"settled": await sandbox_of(request).webhooks.settle(seconds)})


@post("/__control/webhook-endpoints/{id_:str}/roll", status_code=200)
async def roll(request: AnyRequest, id_: FromPath[str]) -> Reply:
    body = await read_body(request, Roll)
    box = sandbox_of(request)
    endpoint = get_object(box, "webhook_endpoint", id_)
    return answer(request, {"secret": endpoints.roll(box, endpoint, body.old_lives_seconds)})


WEBHOOK_ROUTES = [forge, list_events, release, resend, roll, settle, show_webhooks]
