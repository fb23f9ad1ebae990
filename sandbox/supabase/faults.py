"""Misbehaviour on demand, set over HTTP: errors, delays, answers lost after the work was done."""

import asyncio
import random
from typing import Annotated, Any, Literal

import msgspec
from litestar import Router, delete, get, post
from litestar.enums import ScopeType
from litestar.params import JSONBody
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from sandbox.kit.requests import AnyRequest


class Fault(msgspec.Struct, kw_only=True):
    """Applies to requests whose method and path match, at most `times` times, at `rate`.

    `when="after"` does the work first and then drops the answer, so that the caller cannot know.
    """

    path_contains: str = ""
    method: str | None = None
    status: int | None = 503
    body: str = '{"message":"sandbox fault","error":"Fault","statusCode":"503"}'
    content_type: str = "application/json"
    delay_seconds: float = 0
    when: Literal["before", "after"] = "before"
    times: int | None = 1
    rate: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0


class Faults:
    """The faults that are armed; each request takes at most one."""

    def __init__(self) -> None:
        self._armed: list[Fault] = []

    def arm(self, fault: Fault) -> None:
        self._armed.append(fault)

    def clear(self) -> None:
        self._armed.clear()

    def list_armed(self) -> list[Fault]:
        return list(self._armed)

    def take(self, method: str, path: str) -> Fault | None:
        for fault in self._armed:
            if fault.path_contains not in path or fault.method not in {None, method}:
                continue
            if random.random() >= fault.rate:  # noqa: S311  decides about faults, not secrets
                continue
            if fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self._armed.remove(fault)
            return fault
        return None


class FaultsMiddleware:
    """Applies armed faults before every route."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        faults: Faults = scope["litestar_app"].state.faults
        path = scope["raw_path"].decode("latin-1")  # `path` lacks what a mount cuts off
        fault = None if path.startswith("/__") else faults.take(scope["method"], path)
        if fault is None:
            await self._app(scope, receive, send)
            return
        await asyncio.sleep(fault.delay_seconds)
        if fault.status is None:
            await self._app(scope, receive, send)
            return
        if fault.when == "after":
            await self._app(scope, receive, _discard)
        await _answer(fault, fault.status, send)


async def _discard(_message: Message) -> None:
    return None


async def _answer(fault: Fault, status: int, send: Send) -> None:
    body = fault.body.encode()
    headers = [
        (b"content-type", fault.content_type.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _faults_of(request: AnyRequest) -> Faults:
    faults: Faults = request.app.state.faults
    return faults


@post("/__control/faults", sync_to_thread=False)
def arm_fault(request: AnyRequest, data: JSONBody[Fault]) -> dict[str, Any]:
    faults = _faults_of(request)
    faults.arm(data)
    return {"armed": len(faults.list_armed())}


@get("/__control/faults", sync_to_thread=False)
def list_faults(request: AnyRequest) -> list[Fault]:
    return _faults_of(request).list_armed()


@delete("/__control/faults", sync_to_thread=False)
def clear_faults(request: AnyRequest) -> None:
    _faults_of(request).clear()


FAULTS_ROUTER = Router(path="/", route_handlers=[arm_fault, list_faults, clear_faults])
