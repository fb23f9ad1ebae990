"""What must hold after a run, whatever died. Every violation is named by its row."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from scripts.chaos.books import Books, Row
from scripts.chaos.plan import SWEEP_SECONDS

# The sweep's tick, and as long again for the process that swept to be killed at its turn.
DEADLINE_TOLERANCE_SECONDS = 2 * SWEEP_SECONDS + 2

_MONEY = {"succeeded": "confirmed", "failed": "refunded", "cancelled": "refunded"}
_ENDED_UNPAID = frozenset({"refused", "failed", "cancelled", "lost"})


class Finding(msgspec.Struct, frozen=True):
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


def judge(books: Books, promises: list[Promise]) -> list[Finding]:
    rules: tuple[Callable[[Books], Iterable[Finding]], ...] = (
        _ends,
        _money,
        _drift,
        _calls_match,
        _paid_once,
        _nothing_left,
        _late_images,
    )
    found = itertools.chain.from_iterable(rule(books) for rule in rules)
    return [*found, *_promises_kept(books, promises)]


def _ends(books: Books) -> Iterable[Finding]:
    for row in books.generations:
        if row["finished_at"] is None:
            yield Finding("never_ended", str(row["id"]), f"is {row['state']}")
            continue
        late = (row["finished_at"] - row["deadline_at"]).total_seconds()
        if late > DEADLINE_TOLERANCE_SECONDS:
            yield Finding("ended_late", str(row["id"]), f"{late:.1f} s after its deadline")


def _money(books: Books) -> Iterable[Finding]:
    for row in books.generations:
        state, cost = row["state"], row["cost_credits"]
        if row["finished_at"] is None:
            continue
        facts = (row["money"], row["confirms"], row["confirmed"], row["refunded"])
        wanted = ("confirmed", 1, cost, 0) if state == "succeeded" else ("refunded", 0, 0, cost)
        if facts != wanted:
            yield Finding("money", str(row["id"]), f"{state} of {cost} credits, but {facts}")
        if (row["result"] is not None) != (state == "succeeded"):
            yield Finding("image", str(row["id"]), f"{state}, result {row['result']}")


def _drift(books: Books) -> Iterable[Finding]:
    for row in books.drift:
        yield Finding("drift", f"{row.table} {row.row_id}", f"{row.check} {row.detail}")


def call_id_of(paid: dict[str, Any]) -> str | None:
    """Our call's id, from the webhook URL that it was submitted with."""
    url = paid["webhook_url"]
    return urlsplit(url).path.split("/")[-2] if url else None


def paid_by_call(books: Books) -> dict[str, list[dict[str, Any]]]:
    """The provider's rows by our call: by the webhook's URL, or by the request's id."""
    known = {row["request_id"]: str(row["id"]) for row in books.calls if row["request_id"]}
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for paid in books.paid_calls:
        call_id = call_id_of(paid) or known.get(paid["request_id"]) or "unknown"
        found[call_id].append(paid)
    return found


def _calls_match(books: Books) -> Iterable[Finding]:
    """Row by row: one POST a call at most, and each side knows how it ended as the other does."""
    paid = paid_by_call(books)
    ours = {str(row["id"]): row for row in books.calls}
    for call_id, rows in paid.items():
        if call_id not in ours:
            ids = [row["request_id"] for row in rows]
            yield Finding("unknown_paid_call", call_id, f"the provider ran {ids}")
        elif len(rows) > 1:
            yield Finding("sent_twice", call_id, f"{len(rows)} requests at the provider")
    for call_id, call in ours.items():
        rows = paid.get(call_id, [])
        if rows:
            yield from _same_end(call_id, call, rows[0])
        elif call["request_id"] is not None:
            yield Finding("unknown_request", call_id, f"{call['request_id']} is not theirs")


def _same_end(call_id: str, call: Row, paid: dict[str, Any]) -> Iterable[Finding]:
    if call["request_id"] not in {None, paid["request_id"]}:
        what = f"{call['request_id']} here, {paid['request_id']} there"
        yield Finding("request_id", call_id, what)
    is_billed = paid["state"] == "billed"
    if call["state"] == "refused":
        yield Finding("refused_but_taken", call_id, f"the provider has it as {paid['state']}")
    elif call["state"] == "succeeded" and not is_billed:
        yield Finding("not_billed", call_id, f"succeeded here, {paid['state']} there")
    elif call["state"] in _ENDED_UNPAID and is_billed:
        yield Finding("billed", call_id, f"{call['state']} here, billed there")
    elif is_billed and call["state"] != "succeeded" and not is_unheard(call, paid):
        yield Finding("unnoticed", call_id, f"{call['state']} here, billed there")
    units = call["billable_units"]
    if call["state"] == "succeeded" and float(units or 0) != paid["billable_units"]:
        what = f"{units} units here, {paid['billable_units']} there"
        yield Finding("billable_units", call_id, what)


def is_unheard(call: Row, paid: dict[str, Any]) -> bool:
    """Paid, and nobody ever told us: the answer was lost and so was the webhook."""
    return paid["state"] == "billed" and call["state"] == "abandoned" and call["request_id"] is None


def _paid_once(books: Books) -> Iterable[Finding]:
    """A step is paid once, but for re-submissions after an ambiguous answer."""
    paid = paid_by_call(books)
    by_step: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for call in books.calls:
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
            yield Finding("paid_twice", generation_id, f"step {step} was billed for calls {ids}")


def _nothing_left(books: Books) -> Iterable[Finding]:
    for what, count in books.pending.items():
        if count:
            yield Finding("left_over", what, f"{count} after the run")
    for row in books.leftovers:
        yield Finding("left_task", str(row["id"]), f"{row['job']} {row['args']} {row}")
    for row in books.dead_letters:
        what = f"{row['job']} {row['args']} after {row['failures']}: {row['error']}"
        yield Finding("dead_letter", str(row["id"]), what)


def _late_images(books: Books) -> Iterable[Finding]:
    states = {row["id"]: row["state"] for row in books.generations}
    for row in books.late_images:
        if states[row["generation_id"]] == "succeeded":
            yield Finding("late_image", str(row["generation_id"]), "of one that was delivered")


def _promises_kept(books: Books, promises: list[Promise]) -> Iterable[Finding]:
    """Every accepted order is one generation, there is no other, and its end is what was shown."""
    rows = {str(row["id"]): row for row in books.generations}
    for promise in promises:
        row = rows.pop(promise.generation_id, None)
        if row is None:
            yield Finding("vanished", promise.generation_id, "was accepted and is not there")
        elif str(row["user_id"]) != promise.user_id:
            yield Finding("owner", promise.generation_id, "belongs to another person")
        elif row["state"] != promise.state:
            what = f"shown as {promise.state}, is {row['state']}"
            yield Finding("shown_state", promise.generation_id, what)
        elif row["finished_at"] and not _is_shown_right(row, promise):
            what = f"shown as {promise.money}, is {row['money']}"
            yield Finding("shown_money", promise.generation_id, what)
    for generation_id in rows:
        yield Finding("nobody_ordered", generation_id, "no client was told of it")


def _is_shown_right(row: Row, promise: Promise) -> bool:
    shown = {"charged": "confirmed", "refunded": "refunded", "reserved": "pending"}
    return {shown[promise.money], str(row["money"])} == {_MONEY[row["state"]]}


def count(books: Books) -> dict[str, Any]:
    """Figures for the report; unheard and submitted again are named."""
    paid = paid_by_call(books)
    states = Counter(row["state"] for row in books.generations)
    problems = Counter(row["ending"] for row in books.generations if row["ending"])
    faults = Counter(fault for row in books.paid_calls for fault in row["faults"])
    again = [
        {"call": str(row["id"]), "generation": str(row["generation_id"]), "step": row["step"]}
        for row in books.calls
        if row["is_resubmission"]
    ]
    unheard = [
        str(row["id"])
        for row in books.calls
        if any(is_unheard(row, each) for each in paid.get(str(row["id"]), []))
    ]
    lateness = [
        (row["finished_at"] - row["deadline_at"]).total_seconds()
        for row in books.generations
        if row["finished_at"]
    ]
    ours = Counter(row["state"] for row in books.calls)
    return {
        "generations": dict(states),
        "operations": dict(Counter(row["operation"] for row in books.generations)),
        "problems": dict(problems),
        "provider_calls": {
            "ours": dict(ours),
            "theirs": books.paid_totals,
            "paid_ours": ours["succeeded"],
            "paid_theirs": books.paid_totals["billed"],
            "paid_unheard": unheard,
            "resubmissions": again,
            "paid_without_delivery": _paid_without_delivery(books),
            "faults_of_accepted": dict(faults),
        },
        "late_images": len(books.late_images),
        "dead_letters": len(books.dead_letters),
        "ledger": {"events": books.events, "drift": len(books.drift)},
        "closest_to_deadline_seconds": round(max(lateness, default=0.0), 2),
    }


def _paid_without_delivery(books: Books) -> int:
    """Generations that we paid for and refunded: broken, flagged or late images, and cancels."""
    paid = {row["generation_id"] for row in books.calls if row["state"] == "succeeded"}
    return sum(row["state"] != "succeeded" and row["id"] in paid for row in books.generations)
