"""The running sandbox: its objects, its clock, its events."""

import secrets
import string
import time
from typing import Any, NamedTuple

import msgspec

from sandbox.stripe.config import API_VERSION, StripeSandboxConfig, Tuning
from sandbox.stripe.faults import FaultPlan
from sandbox.stripe.store import PRIVATE, Obj, Store
from sandbox.stripe.webhooks import Webhooks

_ALPHABET = string.ascii_letters + string.digits
_CLOCK = ("sandbox.clock", "clock")


class Cause(NamedTuple):
    """The request behind a change; events carry it. `request_id` is None for Stripe's own acts."""

    base_url: str
    request_id: str | None = None
    idempotency_key: str | None = None


def new_id(prefix: str, size: int = 24) -> str:
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(size))


def blank(cls: Any, name: str, id_: str, *, without: tuple[str, ...] = ()) -> Obj:
    """Every field that the SDK's class declares, as null; `without` appear on request only."""
    left_out = {"OBJECT_NAME", "deleted", "id", "object", *without}
    fields = {field: None for field in cls.__annotations__ if field not in left_out}
    return {"id": id_, "object": name, **fields}


def public(obj: Obj) -> Obj:
    """As the API shows it; shares its values with `obj`."""
    return {name: value for name, value in obj.items() if name != PRIVATE}


def snapshot(obj: Obj) -> Obj:
    """As the API shows it, copied, so that later changes do not reach it."""
    copy: Obj = msgspec.json.decode(msgspec.json.encode(public(obj)))
    return copy


class Sandbox:
    def __init__(self, config: StripeSandboxConfig) -> None:
        self.config = config
        self.tuning = Tuning.from_config(config)
        self.store = Store(config.state_dir)
        self.plan = FaultPlan(config.seed)
        self.webhooks = Webhooks(self.store, self.plan, self.tuning, config)
        self.keys_in_use: set[str] = set()
        # When the open sessions end: a heap of (expires_at, id).
        self.expiries = sorted(
            (session["expires_at"], session["id"])
            for session in self.store.all("checkout.session")
            if session["status"] == "open"
        )
        self._skew = (self.store.find(*_CLOCK) or {"skew": 0})["skew"]

    def now(self) -> int:
        return int(time.time()) + int(self._skew)

    def advance(self, seconds: int) -> int:
        self._skew += seconds
        self.store.save({"id": _CLOCK[1], "skew": self._skew}, _CLOCK[0])
        return self.now()

    def emit(self, cause: Cause, type_: str, obj: Obj, *, before: Obj | None = None) -> Obj:
        """Records the event and sends it. `before` is a `snapshot` taken before the change."""
        data: Obj = {"object": snapshot(obj)}
        if before is not None:
            data["previous_attributes"] = previous_attributes(before, data["object"])
        return self.emit_data(cause, type_, data)

    def emit_data(self, cause: Cause, type_: str, data: Obj) -> Obj:
        event: Obj = {
            "id": new_id("evt_1"),
            "object": "event",
            "account": None,
            "api_version": API_VERSION,
            "context": None,
            "created": self.now(),
            "data": data,
            "livemode": False,
            "pending_webhooks": 0,
            "request": {"id": cause.request_id, "idempotency_key": cause.idempotency_key},
            "type": type_,
        }
        self.store.save(event)
        self.webhooks.send(event)
        return event

    def reset(self) -> None:
        """Deletes everything but the configuration and the tuning."""
        self.webhooks.stop()
        self.store.clear()
        self.plan.clear()
        self._skew = 0
        self.keys_in_use.clear()
        self.expiries.clear()
        self.webhooks.configure()
        self.store.flush()

    async def aclose(self) -> None:
        await self.webhooks.aclose()
        self.store.close()


def previous_attributes(before: Obj, after: Obj) -> Obj:
    """What changed, with its old values; hashes are compared name by name, as Stripe does."""
    changed: Obj = {}
    for name, old in before.items():
        new = after.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            changed[name] = previous_attributes(old, new)
        else:
            changed[name] = old
    for name in after.keys() - before.keys():
        changed[name] = None
    return changed
