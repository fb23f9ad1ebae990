"""One table of sentences: every word that people may meet has one, and every one is met."""

import ast
import datetime as dt
import re
from collections.abc import Iterable, Iterator
from typing import get_args

import pytest

from api.problems import KINDS
from core.catalog import params
from core.catalog.types import Lane
from core.credits.types import EntryKind, Source
from core.errors import Reason
from core.generations.endings import Ending
from core.generations.explanation import Outcome
from core.generations.types import CallState, GenerationState
from core.health import Unsafe
from core.payments.types import OrderState
from core.people.events import AccountEventType
from core.pixels.errors import Carried, Found
from core.pixels.types import Note
from core.words.say import SENTENCES, figures_of, say
from tests.unit.test_structure import sources, tree_of


def both(*names: str, parts: str) -> set[str]:
    return {f"{name}.{part}" for name in names for part in parts.split()}


# Of each table: the words that need a sentence, and further keys that code asks for by name.
OPEN_CALLS = {CallState.SUBMITTING, CallState.ACCEPTED, CallState.AMBIGUOUS}
TABLES: dict[str, tuple[Iterable[str], set[str]]] = {
    "account_event": (AccountEventType, set()),
    "ending": (Ending, {"cancelled_in_part"}),
    "dead_letter": ((), {"unknown_job"}),
    "entry": (
        (),
        {
            *(f"grant.{variant}" for variant in ("plain", "until", "debt")),
            *(f"reserve.{variant}" for variant in ("plain", "until", "plain_for", "until_for")),
            *(f"refund.{variant}" for variant in ("plain", "until", "debt", "extended")),
            *(f"restore.{variant}" for variant in ("plain", "until", "debt", "pays", "paid")),
            *("confirm.plain", "confirm.share", "expire.plain"),
            *(
                f"{kind}.{variant}"
                for kind in ("reverse", "adjust")
                for variant in ("plain", "debt")
            ),
        },
    ),
    "carried": (Carried, set()),
    "found": (Found, set()),
    "json_type": (
        ("string", "integer", "number", "boolean", "array", "object", "null"),
        set(),
    ),
    "lane": (get_args(Lane), set()),
    "order_state": (OrderState, set()),
    "note": (Note, {"other"}),
    "page.checkout": ((), {"link", *both("cancelled", "paid", "back", parts="title lead hint")}),
    "page.confirm": (
        (),
        {
            *both("recovery", "invite", parts="title lead"),
            *both("magiclink", "email_change", "email", parts="title lead button"),
        },
    ),
    "page.confirm.done": (
        (),
        {
            "continue",
            *both(
                *("other_address", "confirmed", "confirmed_with_credits", "password_saved"),
                parts="title lead",
            ),
        },
    ),
    "page.confirm.failed": (
        (),
        {"title", "hint", "incomplete_link", "used_link", "not_now", "second_factor"},
    ),
    "page.confirm.password_fault": ((), {"too_long", "weak", "refused"}),
    "param": (
        (*params.LIMITS, *params.BRANCHES),
        {"required", "unknown", "unknown_all", "control_characters", "type", "enum", "other"},
    ),
    "problem": (KINDS, set()),
    "readiness": (Unsafe, {"mailer_autoconfirm"}),
    "reason": ([word for noun in Reason.__subclasses__() for word in noun], {"other"}),
    "run.call": (
        (),
        {
            *("name", "name_with_step", "sent", "sent_again", "ambiguous", "taken"),
            *("taken_after_all", "because", "billed"),
        },
    ),
    "run.call_end": ([state for state in CallState if state not in OPEN_CALLS], set()),
    "run.late_image": ((), {"kept", "bought"}),
    "run.state": (GenerationState, {"queued_again", "failed_because", "cancel_requested"}),
    "run.summary": (Outcome, {"repeats"}),
    "service": ((), {"payments", "portal", "stripe_webhooks"}),
    "source": (Source, {"none"}),
}


def test_the_table_holds_what_is_asked_for_and_nothing_else() -> None:
    asked = {
        f"{table}.{word}" for table, (words, more) in TABLES.items() for word in (*words, *more)
    }
    assert set(SENTENCES) == asked
    assert {key.split(".")[1] for key in SENTENCES if key.startswith("entry.")} == set(EntryKind)


@pytest.mark.parametrize("key", SENTENCES)
def test_sentences_read_well(key: str) -> None:
    sentence = SENTENCES[key]
    assert sentence == sentence.strip() or key in {"run.call.because", "run.call.billed"}
    assert "  " not in sentence
    assert "\n" not in sentence
    figures_of(key)  # its braces are balanced


# Calls whose sentences are for whoever runs or reads the product, not for the people who use it:
# descriptions of the API and of jobs, and errors of programmers and operators.
ELSEWHERE = (
    *("api.routes.", "api.http.", "api.problems", "api.openapi"),
    "core.generations.providers.fal.",  # prompts of models
)
NOT_FOR_PEOPLE = {"Meta", "Job", "OutputRuleError", "ValueError", "Schedule"}
_SENTENCE = re.compile(r"[A-Z][^.]* [^.]*.*[.!?]$", re.DOTALL)


def sentences_in(node: ast.AST) -> Iterator[ast.Constant]:
    """String constants that read like a sentence, but for docstrings and what is named above."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        if isinstance(child, ast.Call):
            name = child.func
            called = name.id if isinstance(name, ast.Name) else getattr(name, "attr", "")
            if called in NOT_FOR_PEOPLE:
                continue
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            if _SENTENCE.match(child.value):
                yield child
        else:
            yield from sentences_in(child)


def test_sentences_for_people_stand_in_the_table_alone() -> None:
    wrong = [
        f"{name}:{found.lineno} {found.value!r}"
        for name, path in sources("core", "api", "worker")
        if not name.startswith(ELSEWHERE) and not name.endswith(".noun")
        for found in sentences_in(tree_of(path))
    ]
    assert wrong == []


def test_figures_have_forms() -> None:
    end = dt.datetime(2026, 11, 3, tzinfo=dt.UTC)
    until = say("entry.grant.until", amount=1, source="gift", until=end)
    assert until == "1 credit came in: gift credits, to be spent by 3 November 2026."
    assert figures_of("entry.grant.until") == {"amount", "source", "until"}
    with pytest.raises(KeyError):
        say("entry.grant.until", amount=1)
    with pytest.raises(KeyError):
        say("entry.grant.never")
