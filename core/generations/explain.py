"""One run, told from its rows: money, provider calls and states in the order of time."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from core.credits import words
from core.credits.types import EntryKind
from core.db import Connection
from core.errors import NotFoundError
from core.generations import queries
from core.generations.explanation import (
    CallFacts,
    Explanation,
    Line,
    LineKind,
    MoneyFacts,
    Outcome,
    RunRows,
)

Row = Mapping[str, Any]

# Of things at one moment: money is set aside, the run is accepted, then work, then the end and,
# with the end, its money.
_RESERVED, _STATE, _CALL_SENT, _CALL_KNOWN, _CALL_ENDED, _FINISHED, _SETTLED, _LATE = range(8)

_STATES = {
    "queued": "Accepted. It waits for its turn.",
    "submitting": "Its turn has come: it is being sent to the provider.",
    "running": "The provider has taken it and works on it.",
    "collecting": "The provider is done: the image is being fetched and checked.",
    "uncertain": "We cannot know whether the provider took or finished it, so nothing is decided"
    " yet and your credits stay set aside.",
    "succeeded": "The image was delivered.",
    "failed": "It ended without an image.",
    "cancelled": "It was cancelled.",
}
_CALL_ENDS = {
    "succeeded": "The provider finished",
    "failed": "The provider failed",
    "refused": "The provider did not take",
    "cancelled": "The provider cancelled",
    "lost": "The provider no longer knew of",
    "abandoned": "We stopped waiting for",
}


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
                text=words.entry_in_words({**row, "operation": run.generation["operation"]}),
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
    for number, event in enumerate(run.events):
        state = event["state"]
        text, at, rank = _STATES[state], event["at"], _STATE
        if state == "queued" and number > 0:
            text = "Back in the queue for another attempt."
        if state in {"succeeded", "failed", "cancelled"}:
            rank = _FINISHED
            # The event is written an instant after the row's own time, which the money shares.
            at = generation["finished_at"] or at
        if state == "failed" and generation["problem"]:
            text = f"It ended without an image: {generation['problem']}"
        yield rank, Line(at=at, kind=LineKind.STATE, text=text, state=state)
    if generation["cancel_requested_at"] is not None:
        yield (
            _STATE,
            Line(
                at=generation["cancel_requested_at"],
                kind=LineKind.STATE,
                text="You asked to cancel it. The provider was asked too, and your credits wait"
                " for its answer.",
            ),
        )


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
    attempt, endpoint = call["attempt"], call["endpoint"]
    step = f", step {call['step'] + 1} of {steps}" if steps > 1 else ""
    sent = f"Call {attempt}{step}: sent to {endpoint}."
    if call["is_resubmission"]:
        sent = (
            f"Call {attempt}{step}: sent to {endpoint} again, because an earlier answer was lost"
            " and no result came. You pay once at most, whatever the provider did."
        )
    yield _CALL_SENT, line(call["created_at"], sent)
    was_ambiguous = call["error_type"] == "ambiguous_submit" or call["state"] == "ambiguous"
    if was_ambiguous:
        yield (
            _CALL_KNOWN,
            line(
                call["created_at"],
                f"Call {attempt}: its answer was lost, so we could not know whether the provider"
                " took it.",
            ),
        )
    if call["accepted_at"] is not None:
        taken = "had taken it after all" if was_ambiguous else "took it"
        yield (
            _CALL_KNOWN,
            line(call["accepted_at"], f"Call {attempt}: the provider {taken}."),
        )
    if call["ended_at"] is not None:
        yield _CALL_ENDED, line(call["ended_at"], _call_end_in_words(call))


def _call_end_in_words(call: Row) -> str:
    text = f"{_CALL_ENDS[call['state']]} call {call['attempt']}"
    reasons = []
    if call["http_status"] is not None:
        reasons.append(f"HTTP {call['http_status']}")
    if call["error_type"] and call["error_type"] != "ambiguous_submit":
        reasons.append(call["error_type"].replace("_", " "))
    if reasons and call["state"] != "succeeded":
        text += f" ({', '.join(reasons)})"
    if call["billable_units"] is not None:
        units = _plain(call["billable_units"])
        unit = "unit" if units == "1" else "units"
        text += f"; it billed us {units} {unit}, you nothing beyond the price"
    return f"{text}."


def _late_lines(run: RunRows) -> Iterator[tuple[int, Line]]:
    image = run.late_image
    if image is None:
        return
    price = words.credits_in_words(run.generation["cost_credits"])
    text = (
        "The image came after your credits had gone back. It is kept until"
        f" {words.day_in_words(image['expires_at'])}; you may buy it for {price}."
    )
    if image["bought_as"] is not None:
        text = (
            "The image came after your credits had gone back, and you bought it: see generation"
            f" {image['bought_as']}."
        )
    yield _LATE, Line(at=image["created_at"], kind=LineKind.STATE, text=text)


def _call_facts(call: Row) -> CallFacts:
    units = call["billable_units"]
    facts = {name: call[name] for name in CallFacts.__struct_fields__ if name in call}
    facts |= {"call_id": call["id"], "billable_units": None if units is None else _plain(units)}
    return msgspec.convert(facts, CallFacts)


def _summary(run: RunRows, outcome: Outcome) -> str:
    generation = run.generation
    price = words.credits_in_words(generation["cost_credits"])
    again = f" It repeats generation {generation['retry_of']}." if generation["retry_of"] else ""
    match outcome:
        case Outcome.CHARGED:
            return f"{generation['title']} was delivered and cost {price}.{again}"
        case Outcome.REFUNDED:
            return (
                f"{generation['title']} was not delivered. It cost nothing: the {price} set aside"
                f" for it {'is' if generation['cost_credits'] == 1 else 'are'} no longer held."
                f"{again}"
            )
        case Outcome.RESERVED:
            return (
                f"{generation['title']} has not ended. {price}"
                f" {'is' if generation['cost_credits'] == 1 else 'are'} set aside for it.{again}"
            )


def _sum(transfers: list[dict[str, Any]], kind: EntryKind) -> int:
    return sum(row["amount"] for row in transfers if row["kind"] == kind)


def _plain(number: Any) -> str:
    """A numeric without trailing zeros or an exponent."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
