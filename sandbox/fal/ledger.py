"""The sandbox's own ledger of paid calls: what fal would put on the bill.

Tests compare ours with it: a row per accepted request, whether or not the client got the answer.
Successful output is billed even if no client collects it; failures, refusals and cancelled
requests are not.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import msgspec


class LedgerState(StrEnum):
    OPEN = "open"
    BILLED = "billed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class PaidCall(msgspec.Struct, kw_only=True):
    request_id: str
    endpoint: str
    account: str
    webhook_url: str | None
    accepted_at: float
    started_at: float | None = None
    finished_at: float | None = None
    state: LedgerState = LedgerState.OPEN
    billable_units: float = 0.0
    cost: float = 0.0
    result_status: int | None = None
    submit_answered: bool = False
    faults: tuple[str, ...] = ()


class Ledger:
    def __init__(self) -> None:
        self._calls: dict[str, PaidCall] = {}

    def open(self, call: PaidCall) -> PaidCall:
        assert call.request_id not in self._calls
        self._calls[call.request_id] = call
        return call

    def clear(self) -> None:
        self._calls.clear()

    def rows(self) -> Iterable[PaidCall]:
        return self._calls.values()

    def totals(self) -> dict[str, Any]:
        states = {state.value: 0 for state in LedgerState}
        for call in self._calls.values():
            states[call.state] += 1
        return {
            "calls": len(self._calls),
            **states,
            "billable_units": round(sum(call.billable_units for call in self.rows()), 8),
            "cost": round(sum(call.cost for call in self.rows()), 8),
            "submit_unanswered": sum(not call.submit_answered for call in self.rows()),
        }
