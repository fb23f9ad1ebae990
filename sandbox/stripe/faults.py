"""Misbehaviour on demand: rules that match requests of the API or deliveries of events.

A rule is JSON: `{"kind": ..., "match": {...}, "rate": 1.0, "times": null, "args": {}}`.
`match` may name `method`, `path` (a pattern as of fnmatch: `checkout/sessions`, `refunds*`) and
`key` (the idempotency key) of a request, or `event` (a pattern: `charge.dispute.*`) and
`endpoint` (an id) of a delivery; `contains` is looked for in the body of either, `nth` counts
what matches otherwise. `FaultKind` names the args of each kind.
"""

import random
from collections.abc import Mapping, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from sandbox.kit.rules import Trigger


class FaultKind(StrEnum):
    # requests, before anything happened
    RATE_LIMITED = "rate_limited"
    ERROR_BEFORE = "error_before"  # status=500, stored=true (under the idempotency key)
    DROP_BEFORE = "drop_before"  # the connection ends, nothing happened
    # seconds=30: the work takes long and holds its key meanwhile; a client that gives up is late
    DELAY_BEFORE = "delay_before"
    # seconds=65: a gateway swallows the request; no key is taken, then the connection ends
    SILENCE = "silence"
    # requests, after they took effect
    ERROR_AFTER = "error_after"  # status=500, stored=true
    DROP_AFTER = "drop_after"  # the lost answer: the connection ends, a repeat sees the result
    DELAY_AFTER = "delay_after"  # seconds=30: the client gives up, the effect is there
    # deliveries of events
    WEBHOOK_DROP = "webhook_drop"  # never sent, never retried
    WEBHOOK_DUPLICATE = "webhook_duplicate"  # count=2, gap=0
    WEBHOOK_DELAY = "webhook_delay"  # seconds=5
    WEBHOOK_REORDER = "webhook_reorder"  # waits for the next delivery; seconds=5 at most
    WEBHOOK_BAD_SIGNATURE = "webhook_bad_signature"
    WEBHOOK_UNSIGNED = "webhook_unsigned"
    WEBHOOK_STALE = "webhook_stale"  # seconds=600: signed as of then
    WEBHOOK_LIVEMODE = "webhook_livemode"  # with livemode: true


Faults = Mapping[FaultKind, Mapping[str, Any]]
_WEBHOOK = frozenset(kind for kind in FaultKind if kind.startswith("webhook_"))


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    method: str | None = None
    path: str | None = None
    key: str | None = None
    event: str | None = None
    endpoint: str | None = None
    contains: str | None = None
    nth: int | None = None


class FaultRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: FaultKind
    match: Match = Match()
    rate: float = 1.0
    times: int | None = None
    args: dict[str, Any] = {}


class _ActiveRule:
    __slots__ = ("rule", "trigger")

    def __init__(self, rule: FaultRule) -> None:
        self.rule = rule
        self.trigger = Trigger(nth=rule.match.nth, rate=rule.rate, times=rule.times)

    def fits(self, subject: Mapping[str, str], body: bytes) -> bool:
        match = self.rule.match
        if match.contains is not None and match.contains.encode() not in body:
            return False
        for name in ("method", "path", "key", "event", "endpoint"):
            pattern = getattr(match, name)
            if pattern is not None and not fnmatchcase(subject.get(name, ""), pattern):
                return False
        return True


class FaultPlan:
    """Every rule now in force."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._rules: list[_ActiveRule] = []
        self._rng = random.Random(seed)  # noqa: S311  repeatable tests, not secrets

    def add(self, rules: Sequence[FaultRule]) -> None:
        self._rules.extend(_ActiveRule(rule) for rule in rules)

    def clear(self) -> None:
        self._rules.clear()
        self._rng = random.Random(self._seed)  # noqa: S311  as above

    def describe(self) -> list[dict[str, Any]]:
        return [
            {"rule": active.rule, "seen": active.trigger.seen, "fired": active.trigger.fired}
            for active in self._rules
        ]

    def of_request(self, method: str, path: str, key: str | None, body: bytes) -> Faults:
        return self._draw({"method": method, "path": path, "key": key or ""}, body, webhook=False)

    def of_delivery(self, event_type: str, endpoint_id: str, body: bytes) -> Faults:
        return self._draw({"event": event_type, "endpoint": endpoint_id}, body, webhook=True)

    def _draw(self, subject: Mapping[str, str], body: bytes, *, webhook: bool) -> Faults:
        return {
            active.rule.kind: active.rule.args
            for active in self._rules
            if (active.rule.kind in _WEBHOOK) == webhook
            and active.fits(subject, body)
            and active.trigger.fires(self._rng)
        }
