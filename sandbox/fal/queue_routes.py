"""The queue protocol over HTTP: submit, status, stream, result, cancel."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from litestar import Request, Response, get, post, put
from litestar.datastructures import State
from litestar.params import FromPath
from litestar.response import Stream

from sandbox.fal.calls import Call, CallStatus, Submission
from sandbox.fal.config import DEFAULT_ACCOUNT
from sandbox.fal.engine import CancelAnswer, Engine
from sandbox.fal.faults import FaultKind
from sandbox.fal.models import NAMESPACES, find_endpoint
from sandbox.fal.outages import Asked, Route
from sandbox.fal.refusals import answer_of, flat, refuse
from sandbox.fal.replies import (
    format_units,
    path_not_found,
    reply,
    unauthorized,
)
from sandbox.fal.storage import expiry_of
from sandbox.kit.connections import drop_connection

AnyRequest = Request[Any, Any, State]
Reply = Response[bytes]

LIFECYCLE = "x-fal-object-lifecycle-preference"
_KEY = re.compile(r"Key ([^\s:]+:[^\s:]+)")
_TRUE = frozenset({"1", "true", "yes"})
_CANCEL_STATUS = {
    CancelAnswer.OK: 200,
    CancelAnswer.CANCELLATION_REQUESTED: 202,
    CancelAnswer.ALREADY_COMPLETED: 400,
}


class QueuePath(NamedTuple):
    """`base` is `[namespace/]owner/app`: status, result and cancel live there, without `sub`."""

    base: str
    rest: tuple[str, ...]

    @classmethod
    def parse(cls, path: str) -> "QueuePath | None":
        segments = tuple(path.strip("/").split("/"))
        size = 3 if segments[0] in NAMESPACES else 2
        if len(segments) < size or not all(segments):
            return None
        return cls("/".join(segments[:size]), segments[size:])

    @property
    def endpoint_id(self) -> str:
        return "/".join((self.base, *self.rest))


def engine_of(request: AnyRequest) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def base_url_of(request: AnyRequest) -> str:
    configured = engine_of(request).config.base_url
    return configured or f"{request.scope['scheme']}://{request.headers.get('host', 'localhost')}"


def account_of(request: AnyRequest) -> str | None:
    found = _KEY.fullmatch(request.headers.get("authorization", ""))
    if found is None:
        return None
    accounts = engine_of(request).config.accounts
    return accounts.get(found.group(1)) if accounts else DEFAULT_ACCOUNT


def key_of(request: AnyRequest) -> str | None:
    """The part of the caller's key that names it."""
    found = _KEY.fullmatch(request.headers.get("authorization", ""))
    return None if found is None else found.group(1).partition(":")[0]


async def outage_at(
    request: AnyRequest, route: Route, asked: str, *, request_id: str | None = None
) -> Reply | None:
    """The answer in the place of the route's own, while something is wrong."""
    ongoing = engine_of(request).outage(
        Asked(route=route, account=account_of(request), key=key_of(request), request_id=request_id)
    )
    return None if ongoing is None else await answer_of(ongoing, asked)


@post("/{path:path}", status_code=200)
async def submit(request: AnyRequest, path: FromPath[str]) -> Reply:
    parsed = QueuePath.parse(path)
    account = account_of(request)
    endpoint_id = path.strip("/") if parsed is None else parsed.endpoint_id
    if account is None:
        return unauthorized(endpoint_id)
    out = await outage_at(request, Route.SUBMIT, endpoint_id)
    if out is not None:
        return out
    endpoint = None if parsed is None else find_endpoint(endpoint_id)
    if parsed is None or endpoint is None:
        return path_not_found("/".join(parsed.rest) if parsed else endpoint_id)
    engine = engine_of(request)
    body = await request.body()
    faults = engine.plan.draw(endpoint_id, body)
    delay = faults.get(FaultKind.DELAY_SUBMIT)
    if delay is not None:
        await asyncio.sleep(float(delay.get("seconds", 2.0)))
    refusal = refuse(endpoint_id, faults) or _queue_full(engine, endpoint_id, request)
    if refusal is not None:
        return refusal
    headers = request.headers
    call = engine.submit(
        Submission(
            endpoint=endpoint,
            endpoint_id=endpoint_id,
            base_path=parsed.base,
            base_url=base_url_of(request),
            account=account,
            body=body,
            webhook_url=request.query_params.get("fal_webhook"),
            start_seconds=_seconds(headers.get("x-fal-request-timeout")),
            no_retry=headers.get("x-fal-no-retry", "").lower() in _TRUE,
            files_expire_at=expiry_of(headers, LIFECYCLE),
        ),
        faults,
    )
    return await _answer_submit(request, engine, call)


async def _answer_submit(request: AnyRequest, engine: Engine, call: Call) -> Reply:
    answer = reply(
        200,
        {
            "status": CallStatus.IN_QUEUE,
            "request_id": call.id,
            "gateway_request_id": call.gateway_id,
            **call.urls(),
            "queue_position": engine.queue_position(call),
        },
        request_id=call.id,
    )
    reordered = call.fault(FaultKind.WEBHOOK_REORDERED)
    if reordered is not None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(
                call.webhook_settled.wait(), float(reordered.get("timeout", 10.0))
            )
    if call.fault(FaultKind.ACCEPT_THEN_DROP) is not None:
        # In-process there is no socket to close, so half of the answer stands for a lost one.
        drop_connection(request.scope)
        return reply(200, bytes(answer.content[: len(answer.content) // 2]))
    broken = call.fault(FaultKind.ACCEPT_THEN_500)
    if broken is not None:
        return flat(int(broken.get("status", 500)))
    call.ledger.submit_answered = True
    return answer


def _queue_full(engine: Engine, endpoint_id: str, request: AnyRequest) -> Reply | None:
    longest = _seconds(request.query_params.get("fal_max_queue_length"))
    if longest is None or engine.queue_length(endpoint_id) <= longest:
        return None
    return reply(429, {"detail": "Queue is full", "error_type": "queue_full"})


def _seconds(raw: str | None) -> float | None:
    try:
        return None if raw is None else float(raw)
    except ValueError:
        return None


async def _locate(
    request: AnyRequest, path: str, *, is_cancel: bool = False
) -> Reply | tuple[Call, list[str]]:
    """The request that a URL of the status family names, and what follows its id."""
    parsed = QueuePath.parse(path)
    account = account_of(request)
    if account is None:
        return unauthorized(parsed.base if parsed else path.strip("/"))
    if parsed is None or len(parsed.rest) < 2 or parsed.rest[0] != "requests":
        return path_not_found("/".join(parsed.rest) if parsed else path.strip("/"))
    _, request_id, *tail = parsed.rest
    route = Route.STATUS if tail[:1] == ["status"] else Route.RESULT
    out = await outage_at(
        request, Route.CANCEL if is_cancel else route, parsed.base, request_id=request_id
    )
    if out is not None:
        return out
    call = engine_of(request).find(request_id, base_path=parsed.base, account=account)
    if call is None:
        return reply(404, {"status": "NOT_FOUND"}, request_id=request_id)
    return call, tail


@get("/{path:path}")
async def get_status_or_result(request: AnyRequest, path: FromPath[str]) -> Response[Any]:
    located = await _locate(request, path)
    if isinstance(located, Response):
        return located
    call, tail = located
    engine = engine_of(request)
    with_logs = request.query_params.get("logs", "").lower() in _TRUE
    match tail:
        case [] | ["response"]:
            return result(call)
        case ["status"]:
            return status(engine, call, with_logs=with_logs)
        case ["status", "stream"]:
            return Stream(
                stream(engine, call, with_logs=with_logs),
                media_type="text/event-stream",
                headers={"x-fal-request-id": call.id, "cache-control": "no-cache"},
            )
        case _:
            return path_not_found("/".join(tail))


@put("/{path:path}", status_code=200)
async def cancel(request: AnyRequest, path: FromPath[str]) -> Reply:
    located = await _locate(request, path, is_cancel=True)
    if isinstance(located, Response):
        return located
    call, tail = located
    if tail != ["cancel"]:
        return path_not_found("/".join(tail))
    answer = engine_of(request).cancel(call)
    return reply(_CANCEL_STATUS[answer], {"status": answer}, request_id=call.id)


def status(engine: Engine, call: Call, *, with_logs: bool) -> Reply:
    code = 200 if call.status is CallStatus.COMPLETED else 202
    return reply(code, describe(engine, call, with_logs=with_logs), request_id=call.id)


def describe(engine: Engine, call: Call, *, with_logs: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"status": call.status, "request_id": call.id, **call.urls()}
    if call.status is CallStatus.IN_QUEUE:
        body["queue_position"] = engine.queue_position(call)
        return body
    body["logs"] = _logs(call) if with_logs else None
    body["metrics"] = {}
    if call.outcome is not None:
        if call.started_at is not None and call.finished_at is not None:
            body["metrics"] = {"inference_time": round(call.finished_at - call.started_at, 4)}
        is_labelled = not (call.has(FaultKind.UNLABELLED) or call.has(FaultKind.MODEL_5XX))
        if not call.outcome.ok and is_labelled:
            body.update(_failure(call.outcome.body, call.outcome.status))
    return body


def _failure(body: bytes, code: int) -> dict[str, str]:
    detail = msgspec.json.decode(body)
    if isinstance(detail.get("detail"), list):
        first = detail["detail"][0]
        return {"error": first["msg"], "error_type": first["type"]}
    return {
        "error": str(detail.get("detail", f"Invalid status code: {code}")),
        "error_type": str(detail.get("error_type", "internal_error")),
    }


def _logs(call: Call) -> list[dict[str, str]]:
    lines = [(call.started_at, "Running the model"), (call.finished_at, "Finished")]
    return [
        {
            "message": message,
            "timestamp": datetime.fromtimestamp(at, UTC).isoformat(),
            "level": "INFO",
            "source": "USER",
        }
        for at, message in lines
        if at is not None
    ]


async def stream(engine: Engine, call: Call, *, with_logs: bool) -> AsyncIterator[bytes]:
    while True:
        body = msgspec.json.encode(describe(engine, call, with_logs=with_logs))
        done = call.status is CallStatus.COMPLETED
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not done:
            call.watchers.append(changed)
        yield b"data: " + body + b"\n\n"
        if done or engine.find_any(call.id) is None:
            return
        await changed


def result(call: Call) -> Reply:
    outcome = call.outcome
    if outcome is None:
        return reply(400, {"detail": "Request is still in progress"}, request_id=call.id)
    is_billed = not (call.has(FaultKind.UNBILLED) or call.has(FaultKind.MODEL_5XX))
    units = {"x-fal-billable-units": format_units(outcome.units)} if is_billed else {}
    return reply(
        outcome.status, outcome.body, request_id=call.id, headers={**units, **outcome.headers}
    )
