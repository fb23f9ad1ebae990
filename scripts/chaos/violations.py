"""What must hold after a run, whatever was killed. Every violation names its row."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from scripts.chaos.both_ledgers import BothLedgers, Row
from scripts.chaos.plan import SWEEP_SECONDS

# One tick of the sweep, and another one in case the sweeping process was killed.
DEADLINE_TOLERANCE_SECONDS = 2 * SWEEP_SECONDS + 2

# What is charged of a run that was cancelled after so many steps; of all others nothing.
_SHARES = {("scene_hd", 1): 4}
_ENDED_UNPAID = frozenset({"refused", "failed", "cancelled", "lost"})


class Violation(msgspec.Struct, frozen=True):
    rule: str
    row_id: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.row_id}: {self.what}"


class Promise(msgspec.Struct, frozen=True):
    """What the API told a client about a generation."""

    generation_id: str
    user_id: str
    state: str
    money: str


def find_violations(ledgers: BothLedgers, promises: list[Promise]) -> list[Violation]:
    rules: tuple[Callable[[BothLedgers], Iterable[Violation]], ...] = (
        _ends,
        _money,
        _drift,
        _calls_match,
        _paid_once,
        _nothing_left,
        _late_images,
    )
    found = itertools.chain.from_iterable(rule(ledgers) for rule in rules)
    return [*found, *_promises_kept(ledgers, promises)]


def _ends(ledgers: BothLedgers) -> Iterable[Violation]:
    for row in ledgers.generations:
        if row["finished_at"] is None:
            yield Violation("never_ended", str(row["id"]), f"is {row['state']}")
            continue
        late = (row["finished_at"] - row["deadline_at"]).total_seconds()
        if late > DEADLINE_TOLERANCE_SECONDS:
            yield Violation("ended_late", str(row["id"]), f"{late:.1f} s after its deadline")


def _money(ledgers: BothLedgers) -> Iterable[Violation]:
    for row in ledgers.generations:
        state, cost = row["state"], row["cost_credits"]
        if row["finished_at"] is None:
            continue
        facts = (row["money"], row["confirms"], row["confirmed"], row["refunded"])
        charged = _charged(row)
        wanted = ("confirmed", 1, charged, cost - charged) if charged else ("refunded", 0, 0, cost)
        if facts != wanted:
            yield Violation("money", str(row["id"]), f"{state} of {cost} credits, but {facts}")
        if (row["result"] is not None) != (state == "succeeded"):
            yield Violation("image", str(row["id"]), f"{state}, result {row['result']}")


def _charged(row: Row) -> int:
    """What an ended run should have cost."""
    if row["state"] == "succeeded":
        return int(row["cost_credits"])
    return _SHARES.get((row["operation"], row["step"]), 0) if row["state"] == "cancelled" else 0


def _drift(ledgers: BothLedgers) -> Iterable[Violation]:
    for row in ledgers.drift:
        yield Violation("drift", f"{row.table} {row.row_id}", f"{row.check} {row.detail}")


def call_id_of(paid: dict[str, Any]) -> str | None:
    """Our call's id, from the webhook URL that it was submitted with."""
    url = paid["webhook_url"]
    return urlsplit(url).path.split("/")[-2] if url else None


def paid_by_call(ledgers: BothLedgers) -> dict[str, list[dict[str, Any]]]:
    """The provider's rows for each of our calls, matched by webhook URL or by request id."""
    known = {row["request_id"]: str(row["id"]) for row in ledgers.calls if row["request_id"]}
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for paid in ledgers.paid_calls:
        call_id = call_id_of(paid) or known.get(paid["request_id"]) or "unknown"
        found[call_id].append(paid)
    return found


def _calls_match(ledgers: BothLedgers) -> Iterable[Violation]:
    """Each call was posted at most once, and both sides have recorded the same end."""
    paid = paid_by_call(ledgers)
    ours = {str(row["id"]): row for row in ledgers.calls}
    for call_id, rows in paid.items():
        if call_id not in ours:
            ids = [row["request_id"] for row in rows]
            yield Violation("unknown_paid_call", call_id, f"the provider ran {ids}")
        elif len(rows) > 1:
            yield Violation("sent_twice", call_id, f"{len(rows)} requests at the provider")
    for call_id, call in ours.items():
        rows = paid.get(call_id, [])
        if rows:
            yield from _same_end(call_id, call, rows[0])
        elif call["request_id"] is not None:
            yield Violation("unknown_request", call_id, f"{call['request_id']} is not theirs")


def _same_end(call_id: str, call: Row, paid: dict[str, Any]) -> Iterable[Violation]:
    if call["request_id"] not in {None, paid["request_id"]}:
        what = f"{call['request_id']} here, {paid['request_id']} there"
        yield Violation("request_id", call_id, what)
    is_billed = paid["state"] == "billed"
    if call["state"] == "refused":
        yield Violation("refused_but_taken", call_id, f"the provider has it as {paid['state']}")
    elif call["state"] == "succeeded" and not is_billed:
        yield Violation("not_billed", call_id, f"succeeded here, {paid['state']} there")
    elif call["state"] in _ENDED_UNPAID and is_billed:
        yield Violation("billed", call_id, f"{call['state']} here, billed there")
    elif is_billed and call["state"] != "succeeded" and not is_unreported(call, paid):
        yield Violation("unnoticed", call_id, f"{call['state']} here, billed there")
    units = call["billable_units"]
    is_stated = "unbilled" not in paid["faults"]
    if call["state"] == "succeeded" and is_stated and float(units or 0) != paid["billable_units"]:
        what = f"{units} units here, {paid['billable_units']} there"
        yield Violation("billable_units", call_id, what)


def is_unreported(call: Row, paid: dict[str, Any]) -> bool:
    """Billed, but neither the answer of the submit nor the webhook reached the product."""
    return paid["state"] == "billed" and call["state"] == "abandoned" and call["request_id"] is None


def _paid_once(ledgers: BothLedgers) -> Iterable[Violation]:
    """Each step is billed once, apart from re-submissions after an ambiguous answer."""
    paid = paid_by_call(ledgers)
    by_step: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for call in ledgers.calls:
        by_step[str(call["generation_id"]), call["step"]].append(call)
    for (generation_id, step), calls in by_step.items():
        billed = [
            call
            for call in calls
            if any(row["state"] == "billed" for row in paid.get(str(call["id"]), []))
        ]
        explained = sum(call["is_resubmission"] for call in calls)
        if len(billed) > 1 + explained:
            ids = [str(call["id"]) for call in billed]
            yield Violation("paid_twice", generation_id, f"step {step} was billed for calls {ids}")


def _nothing_left(ledgers: BothLedgers) -> Iterable[Violation]:
    for what, count in ledgers.pending.items():
        if count:
            yield Violation("left_over", what, f"{count} after the run")
    for row in ledgers.leftovers:
        yield Violation("left_task", str(row["id"]), f"{row['job']} {row['args']} {row}")
    for row in ledgers.dead_letters:
        what = f"{row['job']} {row['args']} after {row['failures']}: {row['error']}"
        yield Violation("dead_letter", str(row["id"]), what)


def _late_images(ledgers: BothLedgers) -> Iterable[Violation]:
    states = {row["id"]: row["state"] for row in ledgers.generations}
    for row in ledgers.late_images:
        if states[row["generation_id"]] == "succeeded":
            yield Violation("late_image", str(row["generation_id"]), "of one that was delivered")


def _promises_kept(ledgers: BothLedgers, promises: list[Promise]) -> Iterable[Violation]:
    """Each accepted request is one generation, there are no others, and each ended as shown."""
    rows = {str(row["id"]): row for row in ledgers.generations}
    for promise in promises:
        row = rows.pop(promise.generation_id, None)
        if row is None:
            yield Violation("vanished", promise.generation_id, "was accepted and is not there")
        elif str(row["user_id"]) != promise.user_id:
            yield Violation("owner", promise.generation_id, "belongs to another person")
        elif row["state"] != promise.state:
            what = f"shown as {promise.state}, is {row['state']}"
            yield Violation("shown_state", promise.generation_id, what)
        elif row["finished_at"] and not _is_shown_right(row, promise):
            what = f"shown as {promise.money}, is {row['money']}"
            yield Violation("shown_money", promise.generation_id, what)
    for generation_id in rows:
        yield Violation("nobody_ordered", generation_id, "no client was told of it")


def _is_shown_right(row: Row, promise: Promise) -> bool:
    in_part = "charged_in_part" if _charged(row) else "refunded"
    return promise.money == ("charged" if row["state"] == "succeeded" else in_part)


def count(ledgers: BothLedgers) -> dict[str, Any]:
    """Figures for the report, with the ids of unreported and re-submitted calls."""
    paid = paid_by_call(ledgers)
    states = Counter(row["state"] for row in ledgers.generations)
    endings = Counter(row["ending"] for row in ledgers.generations if row["ending"])
    faults = Counter(fault for row in ledgers.paid_calls for fault in row["faults"])
    resubmitted = [
        {"call": str(row["id"]), "generation": str(row["generation_id"]), "step": row["step"]}
        for row in ledgers.calls
        if row["is_resubmission"]
    ]
    unreported = [
        str(row["id"])
        for row in ledgers.calls
        if any(is_unreported(row, each) for each in paid.get(str(row["id"]), []))
    ]
    lateness = [
        (row["finished_at"] - row["deadline_at"]).total_seconds()
        for row in ledgers.generations
        if row["finished_at"]
    ]
    ours = Counter(row["state"] for row in ledgers.calls)
    return {
        "generations": dict(states),
        "operations": dict(Counter(row["operation"] for row in ledgers.generations)),
        "endings": dict(endings),
        "provider_calls": {
            "ours": dict(ours),
            "theirs": ledgers.paid_totals,
            "paid_ours": ours["succeeded"],
            "paid_theirs": ledgers.paid_totals["billed"],
            "paid_unreported": unreported,
            "resubmissions": resubmitted,
            "paid_without_delivery": _paid_without_delivery(ledgers),
            "faults_of_accepted": dict(faults),
        },
        "late_images": len(ledgers.late_images),
        "dead_letters": len(ledgers.dead_letters),
        "ledger": {"transfers": ledgers.transfers, "drift": len(ledgers.drift)},
        "closest_to_deadline_seconds": round(max(lateness, default=0.0), 2),
    }


def _paid_without_delivery(ledgers: BothLedgers) -> int:
    """Generations billed to us and refunded to the user: broken, flagged, late or cancelled."""
    paid = {row["generation_id"] for row in ledgers.calls if row["state"] == "succeeded"}
    return sum(row["state"] != "succeeded" and row["id"] in paid for row in ledgers.generations)
