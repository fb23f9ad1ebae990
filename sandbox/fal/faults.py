"""Misbehaviour on demand: rules that match requests, and chaos that draws from a seeded source.

A rule is JSON: `{"kind": ..., "match": {"endpoint", "nth", "contains"}, "rate", "times", "args"}`.
`nth` counts the submits this rule matches otherwise (1 = the first); `contains` is looked for in
the request body; `times` bounds the requests affected. `FaultKind` names the args of each kind.
A rule is drawn once, when the request is submitted, and its faults stay with the request; those of
its status, result and file show later, at the answers that they meet (see `outages`).
"""

import random
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from sandbox.kit.rules import Trigger


class FaultKind(StrEnum):
    # the submit answer
    DELAY_SUBMIT = "delay_submit"  # seconds=2
    SUBMIT_4XX = "submit_4xx"  # status=400, body
    SUBMIT_5XX = "submit_5xx"  # status=500, body
    SUBMIT_HTML_ERROR = "submit_html_error"  # status=503 (502, 504): an ingress page
    LOCKED_ACCOUNT = "locked_account"
    UNAUTHORIZED = "unauthorized"
    RATE_LIMITED = "rate_limited"  # retry_after
    ACCEPT_THEN_DROP = "accept_then_drop"  # accepted, runs, bills; the connection just ends
    ACCEPT_THEN_500 = "accept_then_500"  # status=500
    # the run
    DELAY_RUN = "delay_run"  # seconds=5
    RESULT_ERROR = "result_error"  # status, type, failures (then succeeds: server-side retries)
    NEVER_FINISHES = "never_finishes"
    LOST_REQUEST = "lost_request"  # seconds=0.5 until 404, billed=false
    CANCEL_RACE = "cancel_race"  # cancel answers 202 and the request finishes all the same
    MODEL_5XX = "model_5xx"  # type=internal_server_error: listed, unlabelled and unbilled
    UNLABELLED = "unlabelled"  # failed, and its status names no error
    UNBILLED = "unbilled"  # its result states no billable units
    # reading its status and result: `count` answers, of which `after` are right before
    STATUS_5XX = "status_5xx"  # status=500, count=2, html=false
    RESULT_5XX = "result_5xx"  # status=500, count=2, html=false
    STATUS_404 = "status_404"  # count=1
    RESULT_404 = "result_404"  # count=1
    LOOKS_REFUSED = "looks_refused"  # count=2: 403 "User is locked"
    LOOKS_LIMITED = "looks_limited"  # count=2, retry_after
    LOOKS_SILENT = "looks_silent"  # count=1, seconds=20
    # webhooks
    WEBHOOK_NEVER = "webhook_never"
    WEBHOOK_DUPLICATE = "webhook_duplicate"  # count=2, gap=0.1
    WEBHOOK_LATE = "webhook_late"  # seconds=5
    WEBHOOK_REORDERED = "webhook_reordered"  # before the submit answer; timeout=10
    WEBHOOK_UNSIGNED = "webhook_unsigned"
    WEBHOOK_BAD_SIGNATURE = "webhook_bad_signature"
    # its file, for a while
    FILE_AWAY = "file_away"  # seconds=7 or count, status=503
    FILE_404 = "file_404"  # count=1
    FILE_TRUNCATED = "file_truncated"  # count=1: half of it, as if that were all
    FILE_BROKEN = "file_broken"  # count=1: the connection ends in the middle
    FILE_HTML = "file_html"  # count=1: 200 and a page of a gatekeeper
    FILE_DRIP = "file_drip"  # count=1, bytes_per_second=1
    # the output
    OUTPUT_MISSING = "output_missing"
    OUTPUT_CORRUPT = "output_corrupt"  # garbage=false: truncated
    OUTPUT_WRONG_TYPE = "output_wrong_type"
    OUTPUT_HUGE = "output_huge"  # size_bytes=64 MiB
    OUTPUT_FOREIGN_HOST = "output_foreign_host"  # url
    NSFW_FLAG = "nsfw_flag"
    CONTENT_POLICY = "content_policy"  # refused as for a forbidden prompt


Faults = Mapping[FaultKind, Mapping[str, Any]]
NO_FAULTS: Faults = {}


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    endpoint: str | None = None
    nth: int | None = None
    contains: str | None = None


class FaultRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: FaultKind
    match: Match = Match()
    rate: float = 1.0
    times: int | None = None
    args: dict[str, Any] = {}


class Chaos(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Each submit gets one fault of `kinds` (default: all) with probability `rate`."""

    seed: int
    rate: float
    kinds: tuple[FaultKind, ...] = tuple(FaultKind)
    args: dict[FaultKind, dict[str, Any]] = {}


class _ActiveRule:
    __slots__ = ("rule", "trigger")

    def __init__(self, rule: FaultRule) -> None:
        self.rule = rule
        self.trigger = Trigger(nth=rule.match.nth, rate=rule.rate, times=rule.times)

    def applies(self, endpoint_id: str, body: bytes, rng: random.Random) -> bool:
        match = self.rule.match
        if match.endpoint is not None and match.endpoint != endpoint_id:
            return False
        if match.contains is not None and match.contains.encode() not in body:
            return False
        return self.trigger.fires(rng)


class FaultPlan:
    """Every rule now in force; `draw` decides which faults one submit gets."""

    def __init__(self) -> None:
        self._rules: list[_ActiveRule] = []
        self._rng = random.Random(0)  # noqa: S311  repeatable tests, not secrets
        self._chaos: Chaos | None = None
        self._chaos_rng = random.Random(0)  # noqa: S311  as above

    def add(self, rules: Sequence[FaultRule]) -> None:
        self._rules.extend(_ActiveRule(rule) for rule in rules)

    def start_chaos(self, chaos: Chaos) -> None:
        self._chaos = chaos
        self._chaos_rng = random.Random(chaos.seed)  # noqa: S311  as above

    def clear(self) -> None:
        self._rules.clear()
        self._chaos = None
        self._rng = random.Random(0)  # noqa: S311  as above

    def describe(self) -> dict[str, Any]:
        return {
            "rules": [
                {"rule": active.rule, "seen": active.trigger.seen, "fired": active.trigger.fired}
                for active in self._rules
            ],
            "chaos": self._chaos,
        }

    def draw(self, endpoint_id: str, body: bytes) -> Faults:
        if not self._rules and self._chaos is None:
            return NO_FAULTS
        drawn: dict[FaultKind, Mapping[str, Any]] = {
            active.rule.kind: active.rule.args
            for active in self._rules
            if active.applies(endpoint_id, body, self._rng)
        }
        if self._chaos is not None and self._chaos.kinds:
            # Two draws a submit in any case, so that one seed gives one sequence.
            hit = self._chaos_rng.random() < self._chaos.rate
            kind = self._chaos_rng.choice(self._chaos.kinds)
            if hit:
                drawn.setdefault(kind, self._chaos.args.get(kind, {}))
        return drawn
