"""One run, told from its rows: money, provider calls and states in the order of time."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from core.credits.types import EntryKind
from core.credits.words import entry_in_words
from core.db import Connection
from core.errors import NotFoundError
from core.generations import queries
from core.generations.endings import Ending, ending_in_words
from core.generations.explanation import (
    CallFacts,
    Explanation,
    Line,
    LineKind,
    MoneyFacts,
    Outcome,
    RunRows,
)
from core.words.say import say

Row = Mapping[str, Any]

# Of things at one moment: money is set aside, the run is accepted, then work, then the end and,
# with the end, its money.
_RESERVED, _STATE, _CALL_SENT, _CALL_KNOWN, _CALL_ENDED, _FINISHED, _SETTLED, _LATE = range(8)
_AMBIGUOUS = "ambiguous_submit"


async def explain(conn: Connection, generation_id: uuid.UUID) -> Explanation:
    """Every line of money and every provider call of one generation, in words.

    Raises: NotFoundError.
    """
    run = await queries.find_run(conn, generation_id)
    if run is None:
        raise NotFoundError(kind="generation")
    return explain_run(run)


def explain_run(run: RunRows) -> Explanation:
    """Pure: the same rows give the same words."""
    generation = run.generation
    charged = _sum(run.transfers, EntryKind.CONFIRM)
    refunded = _sum(run.transfers, EntryKind.REFUND)
    units = [call["billable_units"] for call in run.calls if call["billable_units"] is not None]
    outcome = Outcome.RESERVED
    if charged or refunded:
        outcome = Outcome.CHARGED if charged else Outcome.REFUNDED
    return Explanation(
        generation_id=generation["id"],
        operation=generation["operation"],
        lane=generation["lane"],
        state=generation["state"],
        cost_credits=generation["cost_credits"],
        outcome=outcome,
        reserved=_sum(run.transfers, EntryKind.RESERVE),
        charged=charged,
        refunded=refunded,
        provider_calls=len(run.calls),
        resubmissions=sum(call["is_resubmission"] for call in run.calls),
        billable_units=_plain(sum(units)) if units else None,
        summary=_summary(run, outcome),
        lines=_lines(run),
    )


def _lines(run: RunRows) -> list[Line]:
    placed: list[tuple[datetime, int, int, Line]] = []
    parts = (_money_lines, _state_lines, _call_lines, _late_lines)
    for part in parts:
        for rank, line in part(run):
            placed.append((line.at, rank, len(placed), line))
    placed.sort(key=lambda entry: entry[:3])
    return [entry[3] for entry in placed]


def _money_lines(run: RunRows) -> Iterator[tuple[int, Line]]:
    """Bookings carry the start of their transaction: the end's money belongs beside the end."""
    finished_at: datetime | None = run.generation["finished_at"]
    for row in run.transfers:
        at: datetime = row["created_at"]
        is_end = row["kind"] != EntryKind.RESERVE
        if is_end and finished_at is not None:
            at = max(at, finished_at)
        yield (
            _SETTLED if is_end else _RESERVED,
            Line(
                at=at,
                kind=LineKind.MONEY,
                text=entry_in_words({**row, "operation": run.generation["operation"]}),
                money=msgspec.convert(
                    {
                        **{name: row[name] for name in MoneyFacts.__struct_fields__ if name in row},
                        "entry_id": row["id"],
                    },
                    MoneyFacts,
                ),
            ),
        )


def _state_lines(run: RunRows) -> Iterator[tuple[int, Line]]:
    generation = run.generation
    for number, event in enumerate(run.events or _states_of_the_row(generation)):
        state, at, rank = event["state"], event["at"], _STATE
        variant = state
        if state == "queued" and number > 0:
            variant = "queued_again"
        problem = None
        if state == "failed" and generation["ending"]:
            variant, problem = "failed_because", ending_in_words(Ending(generation["ending"]))
        if state in {"succeeded", "failed", "cancelled"}:
            rank = _FINISHED
            # The event is written an instant after the row's own time, which the money shares.
            at = generation["finished_at"] or at
        text = say(f"run.state.{variant}", problem=problem)
        yield rank, Line(at=at, kind=LineKind.STATE, text=text, state=state)
    asked_at = generation["cancel_requested_at"]
    if asked_at is not None:
        text = say("run.state.cancel_requested")
        yield _STATE, Line(at=asked_at, kind=LineKind.STATE, text=text)


def _states_of_the_row(generation: Row) -> Iterator[Row]:
    """What a run's own row still says when its events are over their 90 days."""
    yield {"state": "queued", "at": generation["created_at"]}
    if generation["finished_at"] is not None:
        yield {"state": generation["state"], "at": generation["finished_at"]}


def _call_lines(run: RunRows) -> Iterator[tuple[int, Line]]:
    steps: int = run.generation["steps"]
    for call in run.calls:
        facts = _call_facts(call)

        def line(at: datetime, text: str, facts: CallFacts = facts) -> Line:
            return Line(at=at, kind=LineKind.PROVIDER, text=text, call=facts)

        yield from _one_call(call, steps, line)


def _one_call(
    call: Row, steps: int, line: Callable[[datetime, str], Line]
) -> Iterator[tuple[int, Line]]:
    name = say(
        "run.call.name_with_step" if steps > 1 else "run.call.name",
        attempt=call["attempt"],
        step=call["step"] + 1,
        steps=steps,
    )
    sent = "run.call.sent_again" if call["is_resubmission"] else "run.call.sent"
    yield _CALL_SENT, line(call["created_at"], say(sent, call=name, endpoint=call["endpoint"]))
    was_ambiguous = call["error_type"] == _AMBIGUOUS or call["state"] == "ambiguous"
    if was_ambiguous:
        text = say("run.call.ambiguous", attempt=call["attempt"])
        yield _CALL_KNOWN, line(call["created_at"], text)
    if call["accepted_at"] is not None:
        taken = "run.call.taken_after_all" if was_ambiguous else "run.call.taken"
        yield _CALL_KNOWN, line(call["accepted_at"], say(taken, attempt=call["attempt"]))
    if call["ended_at"] is not None:
        yield _CALL_ENDED, line(call["ended_at"], _call_end_in_words(call))


def _call_end_in_words(call: Row) -> str:
    reasons = []
    if call["http_status"] is not None:
        reasons.append(f"HTTP {call['http_status']}")
    if call["error_type"] and call["error_type"] != _AMBIGUOUS:
        reasons.append(call["error_type"].replace("_", " "))
    because = billed = ""
    if reasons and call["state"] != "succeeded":
        because = say("run.call.because", reasons=", ".join(reasons))
    if call["billable_units"] is not None:
        billed = say("run.call.billed", units=_plain(call["billable_units"]))
    return say(
        f"run.call_end.{call['state']}", attempt=call["attempt"], because=because, billed=billed
    )


def _late_lines(run: RunRows) -> Iterator[tuple[int, Line]]:
    image = run.late_image
    if image is None:
        return
    text = say(
        "run.late_image.kept" if image["bought_as"] is None else "run.late_image.bought",
        price=run.generation["cost_credits"],
        until=image["expires_at"],
        bought_as=image["bought_as"],
    )
    yield _LATE, Line(at=image["created_at"], kind=LineKind.STATE, text=text)


def _call_facts(call: Row) -> CallFacts:
    units = call["billable_units"]
    facts = {name: call[name] for name in CallFacts.__struct_fields__ if name in call}
    facts |= {"call_id": call["id"], "billable_units": None if units is None else _plain(units)}
    return msgspec.convert(facts, CallFacts)


def _summary(run: RunRows, outcome: Outcome) -> str:
    generation = run.generation
    told = say(
        f"run.summary.{outcome}", title=generation["title"], price=generation["cost_credits"]
    )
    if generation["retry_of"] is None:
        return told
    return f"{told} {say('run.summary.repeats', retry_of=generation['retry_of'])}"


def _sum(transfers: list[dict[str, Any]], kind: EntryKind) -> int:
    return sum(row["amount"] for row in transfers if row["kind"] == kind)


def _plain(number: Any) -> str:
    """A numeric without trailing zeros or an exponent."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
