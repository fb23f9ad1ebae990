"""One run explained from its rows: money, provider calls and states in the order of time."""

import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal

import msgspec

from core.credits.types import EntryFacts, EntryKind
from core.credits.words import entry_in_words
from core.db import Connection
from core.errors import NotFoundError
from core.generations import queries
from core.generations.endings import ending_in_words
from core.generations.explanation import (
    CallFacts,
    CallRow,
    Explanation,
    Line,
    LineKind,
    MoneyFacts,
    Outcome,
    RunRow,
    RunRows,
    TransferRow,
)
from core.generations.types import FINISHED_STATES, CallState, GenerationState
from core.words.say import say

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
    units = [call.billable_units for call in run.calls if call.billable_units is not None]
    outcome = Outcome.RESERVED
    if charged or refunded:
        outcome = Outcome.CHARGED if charged else Outcome.REFUNDED
    if charged and refunded:
        outcome = Outcome.CHARGED_IN_PART
    return Explanation(
        generation_id=generation.id,
        operation=generation.operation,
        lane=generation.lane,
        state=generation.state,
        cost_credits=generation.cost_credits,
        outcome=outcome,
        reserved=_sum(run.transfers, EntryKind.RESERVE),
        charged=charged,
        refunded=refunded,
        provider_calls=len(run.calls),
        resubmissions=sum(call.is_resubmission for call in run.calls),
        billable_units=_plain(sum(units, Decimal())) if units else None,
        summary=_summary(generation, outcome, charged=charged, refunded=refunded),
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
    """Transfers carry the start of their transaction, so those of the end are placed at the end."""
    finished_at = run.generation.finished_at
    for row in run.transfers:
        at = row.created_at
        is_end = row.kind is not EntryKind.RESERVE
        if is_end and finished_at is not None:
            at = max(at, finished_at)
        facts = EntryFacts(
            kind=row.kind,
            amount=row.amount,
            debit=row.debit,
            credit=row.credit,
            source=row.source,
            lot_expires_at=row.lot_expires_at,
            operation=run.generation.operation,
            extended_from=row.extended_from,
            is_share=row.is_share,
        )
        yield (
            _SETTLED if is_end else _RESERVED,
            Line(
                at=at,
                kind=LineKind.MONEY,
                text=entry_in_words(facts),
                money=msgspec.convert(row, MoneyFacts, from_attributes=True),
            ),
        )


def _state_lines(run: RunRows) -> Iterator[tuple[int, Line]]:
    generation = run.generation
    told = [(change.state, change.at) for change in run.states]
    for number, (state, reached_at) in enumerate(told or _states_of_the_row(generation)):
        variant: str = state
        at, rank, problem = reached_at, _STATE, None
        if state is GenerationState.QUEUED and number > 0:
            variant = "queued_again"
        if state is GenerationState.FAILED and generation.ending is not None:
            variant, problem = "failed_because", ending_in_words(generation.ending)
        if state in FINISHED_STATES:
            rank = _FINISHED
            # The event is written an instant after the row's own time, which the money shares.
            at = generation.finished_at or at
        text = say(f"run.state.{variant}", problem=problem)
        yield rank, Line(at=at, kind=LineKind.STATE, text=text, state=state)
    if generation.cancel_requested_at is not None:
        text = say("run.state.cancel_requested")
        yield _STATE, Line(at=generation.cancel_requested_at, kind=LineKind.STATE, text=text)


def _states_of_the_row(generation: RunRow) -> list[tuple[GenerationState, datetime]]:
    """The states that the row itself shows, once its events are older than 90 days."""
    states = [(GenerationState.QUEUED, generation.created_at)]
    if generation.finished_at is not None:
        states.append((generation.state, generation.finished_at))
    return states


def _call_lines(run: RunRows) -> Iterator[tuple[int, Line]]:
    for call in run.calls:
        facts = _call_facts(call)

        def line(at: datetime, text: str, facts: CallFacts = facts) -> Line:
            return Line(at=at, kind=LineKind.PROVIDER, text=text, call=facts)

        yield from _one_call(call, run.generation.steps, line)


def _one_call(
    call: CallRow, steps: int, line: Callable[[datetime, str], Line]
) -> Iterator[tuple[int, Line]]:
    name = say(
        "run.call.name_with_step" if steps > 1 else "run.call.name",
        attempt=call.attempt,
        step=call.step + 1,
        steps=steps,
    )
    sent = "run.call.sent_again" if call.is_resubmission else "run.call.sent"
    yield _CALL_SENT, line(call.created_at, say(sent, call=name, endpoint=call.endpoint))
    was_ambiguous = call.error_type == _AMBIGUOUS or call.state is CallState.AMBIGUOUS
    if was_ambiguous:
        text = say("run.call.ambiguous", attempt=call.attempt)
        yield _CALL_KNOWN, line(call.created_at, text)
    if call.accepted_at is not None:
        taken = "run.call.taken_after_all" if was_ambiguous else "run.call.taken"
        yield _CALL_KNOWN, line(call.accepted_at, say(taken, attempt=call.attempt))
    if call.ended_at is not None:
        yield _CALL_ENDED, line(call.ended_at, _call_end_in_words(call))


def _call_end_in_words(call: CallRow) -> str:
    reasons = []
    if call.http_status is not None:
        reasons.append(f"HTTP {call.http_status}")
    if call.error_type and call.error_type != _AMBIGUOUS:
        reasons.append(call.error_type.replace("_", " "))
    because = billed = ""
    if reasons and call.state is not CallState.SUCCEEDED:
        because = say("run.call.because", reasons=", ".join(reasons))
    if call.billable_units is not None:
        billed = say("run.call.billed", units=_plain(call.billable_units))
    return say(f"run.call_end.{call.state}", attempt=call.attempt, because=because, billed=billed)


def _late_lines(run: RunRows) -> Iterator[tuple[int, Line]]:
    image = run.late_image
    if image is None:
        return
    text = say(
        "run.late_image.kept" if image.bought_as is None else "run.late_image.bought",
        price=run.generation.cost_credits - _sum(run.transfers, EntryKind.CONFIRM),
        until=image.expires_at,
        bought_as=image.bought_as,
    )
    yield _LATE, Line(at=image.created_at, kind=LineKind.STATE, text=text)


def _call_facts(call: CallRow) -> CallFacts:
    units = call.billable_units
    return CallFacts(
        call_id=call.call_id,
        endpoint=call.endpoint,
        step=call.step,
        attempt=call.attempt,
        is_resubmission=call.is_resubmission,
        state=call.state,
        http_status=call.http_status,
        error_type=call.error_type,
        billable_units=None if units is None else _plain(units),
    )


def _summary(generation: RunRow, outcome: Outcome, *, charged: int, refunded: int) -> str:
    told = say(
        f"run.summary.{outcome}",
        title=generation.title,
        price=generation.cost_credits,
        charged=charged,
        refunded=refunded,
    )
    if generation.retry_of is None:
        return told
    return f"{told} {say('run.summary.repeats', retry_of=generation.retry_of)}"


def _sum(transfers: list[TransferRow], kind: EntryKind) -> int:
    return sum(row.amount for row in transfers if row.kind is kind)


def _plain(number: Decimal) -> str:
    """Without trailing zeros or an exponent."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
