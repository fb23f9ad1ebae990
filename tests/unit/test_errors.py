"""Errors are frozen structs: declared fields, equality, pickles, and what SQL writes into them."""

import ast
import contextlib
import copy
import dataclasses
import pickle
import re
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from core import errors
from core.errors import (
    ConflictError,
    DomainError,
    FailureKind,
    InJobs,
    InputReason,
    NotFoundError,
    Reason,
    find_reason,
)
from core.generations.errors import AlreadyBoughtError, GenerationReason
from core.identity.errors import NoIdentityError
from core.sql_errors import decode
from core.tasks.errors import LeaseLostError
from core.words.say import figures_of
from tests.harness.errors import example, required_of, subclasses
from tests.unit.test_structure import migrations_text, schema_text, sources, tree_of


@pytest.mark.parametrize("cls", subclasses(), ids=lambda cls: cls.__name__)
def test_every_error_is_a_frozen_struct(cls: type[DomainError]) -> None:
    error = example(cls)
    assert "in_jobs" in vars(cls)
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert (twin, hash(twin), repr(twin)) == (error, hash(error), repr(error))
    for name in cls.field_names:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(error, name, "other")
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(error, name)
    with pytest.raises(TypeError):
        cls(no_such_field=1)  # type: ignore[call-arg]  # that is the point


def test_an_error_says_its_fields() -> None:
    error = NotFoundError(kind="order")
    assert repr(error) == "NotFoundError(kind='order')"
    assert str(error) == "kind='order'"
    assert error != NotFoundError(kind="pack")
    assert error != errors.GoneError(kind="order")
    assert ConflictError(reason=InputReason.ID_TAKEN).fields == {"reason": "id_taken"}
    with pytest.raises(TypeError):
        NotFoundError()  # type: ignore[call-arg]  # a required field


def test_python_may_write_on_an_error_that_travels() -> None:
    @contextlib.contextmanager
    def through() -> Iterator[None]:  # assigns __traceback__ when it lets an error pass
        yield

    cause = ValueError("first")
    with pytest.raises(NotFoundError) as caught, through():
        raise NotFoundError(kind="order") from cause
    caught.value.add_note("on the way")
    assert caught.value.with_traceback(None).__cause__ is cause
    assert caught.value == NotFoundError(kind="order")


def test_a_class_without_a_word_for_jobs_is_none() -> None:
    with pytest.raises(AssertionError, match="SilentError does not say"):

        class SilentError(DomainError):
            pass


@pytest.mark.parametrize("cls", subclasses(), ids=lambda cls: cls.__name__)
def test_the_runner_of_jobs_is_told_what_to_do(cls: type[DomainError]) -> None:
    failure = errors.job_failure(example(cls))
    assert failure is not None
    assert (failure.in_jobs, failure.kind) == (cls.in_jobs, cls.failure_kind)
    assert failure.reason.startswith(cls.__name__)
    if cls.failure_kind is FailureKind.ABSENT:
        assert cls.in_jobs is InJobs.BACKOFF


def test_failures_that_are_no_domain_errors() -> None:
    away = errors.RetryableError("away", kind=FailureKind.ABSENT, retry_after_seconds=3)
    assert errors.job_failure(away) == errors.JobFailure(
        InJobs.BACKOFF, FailureKind.ABSENT, "away", 3
    )
    assert errors.job_failure(errors.RetryableError("again")) == errors.JobFailure(
        InJobs.BACKOFF, FailureKind.ERROR, "again"
    )
    assert errors.job_failure(errors.PermanentError("no")) == errors.JobFailure(
        InJobs.NEVER, FailureKind.ERROR, "no"
    )
    assert errors.job_failure(ValueError("undeclared")) is None
    wait = errors.job_failure(errors.RateLimitedError(retry_after_seconds=7, policy="user"))
    assert wait is not None
    assert wait.retry_after_seconds == 7


# --- what SQL writes -------------------------------------------------------------------------


def test_the_detail_of_sql_fills_declared_fields() -> None:
    found = decode(
        "JS409",
        '{"reason": "already_bought", "generation_id": "00000000-0000-0000-0000-000000000007"}',
    )
    assert found == AlreadyBoughtError(
        reason=GenerationReason.ALREADY_BOUGHT, generation_id=uuid.UUID(int=7)
    )
    plain = decode("JS409", '{"reason": "already_finished", "state": "failed"}')
    assert plain == ConflictError(reason=GenerationReason.ALREADY_FINISHED, state="failed")
    assert isinstance(plain, ConflictError)
    assert plain.reason is GenerationReason.ALREADY_FINISHED
    assert decode("JS430", None) == LeaseLostError()
    assert decode("JS401", None) == NoIdentityError()
    assert decode("23505", None) is None


@pytest.mark.parametrize(
    "wrong",
    [
        '{"reason": "id_taken", "colour": "red"}',  # a field that nobody declares
        '{"reason": "already_bought"}',  # one that its class needs
        '{"state": "failed"}',
        '{"reason": "because"}',
        '{"reason": 7}',
    ],
)
def test_what_sql_makes_up_is_a_programmers_error(wrong: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode("JS409", wrong)


def test_every_error_of_sql_is_known_whoever_imports_what() -> None:
    """In a process that has imported nothing else, as a script may be."""
    declared = {
        str(statement.value.value)
        for _, path in sources("core")
        for cls in ast.walk(tree_of(path))
        if isinstance(cls, ast.ClassDef)
        for statement in cls.body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and statement.targets[0].id == "sqlstate"
        and isinstance(statement.value, ast.Constant)
    }
    alone = (
        "from core.sql_errors import decode; import sys; print(*map(decode, sys.argv[1:], ['{}']))"
    )
    for sqlstate in declared:
        done = subprocess.run(
            [sys.executable, "-c", alone, sqlstate], capture_output=True, text=True, check=False
        )
        assert done.stdout != "None\n", sqlstate
    assert {"JS401", "JS409", "JS442", "JS500"} <= declared


def test_a_reason_is_the_word_of_one_noun() -> None:
    words = Counter(word.value for noun in Reason.__subclasses__() for word in noun)
    assert [word for word, times in words.items() if times > 1] == []
    assert [word for word in words if re.fullmatch(r"[a-z][a-z0-9_]*", word) is None] == []
    assert find_reason("already_bought") is GenerationReason.ALREADY_BOUGHT
    assert find_reason("because") is None


class Raised(msgspec.Struct, frozen=True):
    """One `raise exception` of ours: the names that its detail writes, and the reasons it may."""

    sqlstate: str
    text: str
    names: frozenset[str]
    reasons: frozenset[str]

    @property
    def classes(self) -> set[type[DomainError]]:
        known = [cls for cls in subclasses() if cls.sqlstate == self.sqlstate]
        base = next(cls for cls in known if not cls.for_reasons)
        return {
            next((cls for cls in known if reason in cls.for_reasons), base)
            for reason in self.reasons or {""}
        }


_STATEMENT = re.compile(r"raise exception [^;]*;")
_CASE = re.compile(r"\bcase\b.*?\bend\b", re.DOTALL)


def raised_in_sql() -> list[Raised]:
    found = []
    text = schema_text()
    for match in _STATEMENT.finditer(text):
        statement = match.group()
        code = re.search(r"'(JS\d{3})'", statement)
        if code is None:
            continue
        body = text[text.rindex("create ", 0, match.start()) : match.start()]
        for names, reasons in _written(statement, body):
            found.append(Raised(code.group(1), statement, frozenset(names), frozenset(reasons)))
    return found


def _written(statement: str, body: str) -> list[tuple[set[str], set[str]]]:
    """The names in the detail of one statement, and its reasons: once for each shape that it has.

    `body`: what the function says before it, where a variable of the detail gets its value.
    """
    literal = re.search(r"detail\s*=\s*'(\{.*?\})'", statement, re.DOTALL)
    if literal is not None:
        detail = msgspec.json.decode(literal.group(1), type=dict[str, Any])
        return [(set(detail), {detail["reason"]} if "reason" in detail else set())]
    if "detail" not in statement:
        return [(set(), set())]
    joined = re.search(r"detail = \((v_\w+) \|\| (v_\w+)\)::text", statement)
    if joined is not None:
        ((always, _),) = _built(_assigned(joined.group(1), body))
        return [(always | names, why) for names, why in _built(_assigned(joined.group(2), body))]
    (shape,) = _built(statement)
    names, reasons = shape
    if "v_reason" in reasons:
        case = _CASE.search(body, body.rindex("v_reason := case"))
        assert case is not None
        reasons = set(re.findall(r"then '(\w+)'", case.group()))
    return [(names, reasons)]


def _assigned(variable: str, body: str) -> str:
    return "".join(re.findall(rf"\b{variable}(?: jsonb)? := [^;]*;", body))


def _reasons(written: str) -> set[str]:
    begun = re.fullmatch(r"'(\w+)' \|\| v_[\w.]+", written)
    if begun is not None:  # what the variable may be, the words with this beginning say
        words = {word.value for noun in Reason.__subclasses__() for word in noun}
        return {word for word in words if word.startswith(begun.group(1))}
    return {word.strip("'") for word in written.split("|") if word}


def _built(text: str) -> list[tuple[set[str], set[str]]]:
    """Names and reasons of each object that `text` builds."""
    found = []
    for start in re.finditer(r"jsonb_build_object\(", text):
        depth, end = 1, start.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        # A `case` becomes the words it may yield; what stands in deeper brackets says nothing.
        flat = _CASE.sub(
            lambda case: "|".join(re.findall(r"(?:then|else) ('\w+')", case.group())),
            text[start.end() : end - 1],
        )
        while (inner := re.sub(r"\([^()]*\)", "", flat)) != flat:
            flat = inner
        parts = [part.strip() for part in flat.split(",")]
        pairs = dict(zip((name.strip("'") for name in parts[::2]), parts[1::2], strict=True))
        found.append((set(pairs), _reasons(pairs.get("reason", ""))))
    assert found, text
    return found


def test_sql_writes_declared_fields_and_reasons_alone() -> None:
    raised = raised_in_sql()
    assert len(raised) > 60
    for one in raised:
        assert ("reason" in one.names) == bool(one.reasons), one.text
        for reason in one.reasons:
            assert find_reason(reason) is not None, one.text
        for cls in one.classes:
            assert one.names <= set(cls.field_names), one.text
            assert required_of(cls) <= one.names, one.text


def test_every_reason_is_given_somewhere() -> None:
    in_sql = set(re.findall(r"""['"](\w+)['"]""", migrations_text()))
    in_python = {
        node.attr
        for _, path in sources("core", "api")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute)
    }
    unused = [
        word
        for noun in Reason.__subclasses__()
        for word in noun
        if word not in in_sql and word.name not in in_python
    ]
    assert unused == []


# --- words for people ------------------------------------------------------------------------


def test_the_sentence_of_a_reason_shows_what_its_error_carries() -> None:
    for one in raised_in_sql():
        for reason in one.reasons:
            assert figures_of(f"reason.{reason}") <= one.names, one.text
    for name, node in raised_in_python():
        given = {keyword.arg for keyword in node.keywords} | {"field"}
        for word in reasons_named(node):
            missing = figures_of(f"reason.{word}") - given
            assert missing == set(), f"{name}:{node.lineno}"


def raised_in_python() -> Iterator[tuple[str, ast.Call]]:
    names = {cls.__name__ for cls in subclasses()}
    for name, path in sources("core", "api"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                if called in names and any(keyword.arg == "reason" for keyword in node.keywords):
                    yield name, node


def reasons_named(call: ast.Call) -> Iterator[Reason]:
    nouns = {noun.__name__: noun for noun in Reason.__subclasses__()}
    for keyword in call.keywords:
        if keyword.arg == "reason" and isinstance(keyword.value, ast.Attribute):
            of = keyword.value.value
            noun = nouns.get(of.id if isinstance(of, ast.Name) else getattr(of, "attr", ""))
            if noun is not None:
                yield noun[keyword.value.attr]


def test_python_raises_no_reason_that_is_a_string() -> None:
    wrong = [
        f"{name}:{node.lineno}"
        for name, node in raised_in_python()
        for keyword in node.keywords
        if keyword.arg == "reason" and isinstance(keyword.value, ast.Constant | ast.JoinedStr)
    ]
    assert wrong == []
