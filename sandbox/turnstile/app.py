"""`POST /turnstile/v0/siteverify` and, in place of a person who solves a challenge, a control.

A token is good for five minutes and once; a repetition with the same `idempotency_key` answers as
the first did. The secrets that Cloudflare documents for tests pass, fail, or find it spent,
whatever the token.  https://developers.cloudflare.com/turnstile/get-started/server-side-validation/
"""

import math
import secrets
import time
from datetime import UTC, datetime
from typing import Any

import msgspec
from litestar import Litestar, Response, post
from litestar.params import FromPath, JSONBody

from sandbox.kit.requests import AnyRequest

TOKEN_SECONDS = 300
TOKEN_CHARACTERS_MAX = 2048
ALWAYS_PASSES = "1x0000000000000000000000000000000AA"
ALWAYS_FAILS = "2x0000000000000000000000000000000AA"
ALWAYS_SPENT = "3x0000000000000000000000000000000AA"


_FAULTS = {
    "": "missing-input-secret",
    ALWAYS_FAILS: "invalid-input-response",
    ALWAYS_SPENT: "timeout-or-duplicate",
}


class Solved(msgspec.Struct, kw_only=True):
    """What the widget was on when a person solved its challenge."""

    hostname: str = "localhost"
    action: str = ""
    age_seconds: float = 0


class Turnstile:
    """The tokens of one site. `away`: so many requests are answered with a 503."""

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self.away = 0
        self.asked: list[dict[str, str]] = []
        self._solved: dict[str, tuple[Solved, float]] = {}
        self._answered: dict[str, dict[str, Any]] = {}

    def solve(self, solved: Solved) -> str:
        token = "0." + secrets.token_urlsafe(300)
        self._solved[token] = (solved, time.monotonic() - solved.age_seconds)
        return token

    def verify(self, given: dict[str, str]) -> dict[str, Any]:
        self.asked.append(given)
        key = given.get("idempotency_key", "")
        if key in self._answered:
            return self._answered[key]
        answer = self._judge(given.get("secret", ""), given.get("response", ""))
        if key:
            self._answered[key] = answer
        return answer

    def _judge(self, secret: str, token: str) -> dict[str, Any]:
        if secret == ALWAYS_PASSES and token:
            return _passed(Solved(hostname="example.com", action="test"))
        fault = self._find_fault(secret, token)
        return _passed(self._solved[token][0]) if fault is None else _refused(fault)

    def _find_fault(self, secret: str, token: str) -> str | None:
        fault = _FAULTS.get(secret)
        if fault is not None:
            return fault
        if secret != self.secret:
            return "invalid-input-secret"
        if not token:
            return "missing-input-response"
        if token not in self._solved or len(token) > TOKEN_CHARACTERS_MAX:
            return "invalid-input-response"
        solved, at = self._solved[token]
        self._solved[token] = (solved, -math.inf)  # once
        return "timeout-or-duplicate" if time.monotonic() - at > TOKEN_SECONDS else None


def _refused(code: str) -> dict[str, Any]:
    return {"success": False, "error-codes": [code], "messages": []}


def _passed(solved: Solved) -> dict[str, Any]:
    return {
        "success": True,
        "error-codes": [],
        "challenge_ts": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "hostname": solved.hostname,
        "action": solved.action,
        "cdata": "",
    }


def _turnstile_of(request: AnyRequest) -> Turnstile:
    turnstile: Turnstile = request.app.state.turnstile
    return turnstile


@post("/turnstile/v0/siteverify", status_code=200)
async def siteverify(request: AnyRequest) -> Response[dict[str, Any]]:
    """Takes a form or JSON."""
    turnstile = _turnstile_of(request)
    if turnstile.away > 0:
        turnstile.away -= 1
        return Response(_refused("internal-error"), status_code=503)
    is_json = request.headers.get("content-type", "").startswith("application/json")
    given = await request.json() if is_json else await request.form()
    return Response(turnstile.verify({name: str(value) for name, value in dict(given).items()}))


@post("/__control/solve", status_code=200, sync_to_thread=False)
def solve(request: AnyRequest, data: JSONBody[Solved]) -> dict[str, str]:
    return {"token": _turnstile_of(request).solve(data)}


@post("/__control/away/{times:int}", status_code=200, sync_to_thread=False)
def go_away(request: AnyRequest, times: FromPath[int]) -> dict[str, int]:
    _turnstile_of(request).away = times
    return {"times": times}


def create_app(secret: str) -> Litestar:
    app = Litestar(
        route_handlers=[siteverify, solve, go_away], openapi_config=None, logging_config=None
    )
    app.state.turnstile = Turnstile(secret)
    return app
