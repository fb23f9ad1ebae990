"""Errors are frozen structs: declared fields, equality, pickles, and what SQL writes into them."""

import contextlib
import copy
import dataclasses
import pickle
import re
import uuid
from collections.abc import Iterator

import msgspec
import pytest

from core import errors
from core.errors import (
    ConflictError,
    DomainError,
    FailureKind,
    InJobs,
    InvalidInputError,
    NotFoundError,
    TemporarilyUnavailableError,
)
from tests.harness.errors import example, subclasses
from tests.unit.test_structure import migrations_text


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
    assert ConflictError(reason="x").fields == {"reason": "x"}
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
    found = errors.decode(
        "JS409",
        '{"reason": "already_bought", "generation_id": "00000000-0000-0000-0000-000000000007"}',
    )
    assert found == ConflictError(reason="already_bought", generation_id=uuid.UUID(int=7))
    assert errors.decode("JS430", None) == errors.LeaseLostError()
    assert errors.decode("23505", None) is None
    for wrong in ('{"reason": "x", "colour": "red"}', '{"state": "x"}', '{"reason": 7}'):
        with pytest.raises(msgspec.ValidationError):
            errors.decode("JS409", wrong)


def raised_in_sql() -> list[tuple[str, str]]:
    """(SQLSTATE, text of the statement) of every error of ours."""
    statements = re.findall(r"raise exception [^;]*;", migrations_text())
    found = [
        (code.group(1), text) for text in statements if (code := re.search(r"'(JS\d{3})'", text))
    ]
    assert len(found) > 60
    return found


def keys_of(statement: str) -> set[str]:
    """The names that the detail of one statement writes: of a JSON literal, or of its builder."""
    literal = re.search(r"detail\s*=\s*'(\{.*?\})'", statement, re.DOTALL)
    if literal is not None:
        return set(msgspec.json.decode(literal.group(1), type=dict[str, object]))
    built = re.search(r"detail\s*=\s*jsonb_build_object\((.*)\)::text", statement, re.DOTALL)
    if built is None:
        assert "detail" not in statement, statement
        return set()
    # Strip what stands in deeper brackets or in a `case`, then every second argument is a name.
    flat = re.sub(r"\bcase\b.*?\bend\b", "x", built.group(1), flags=re.DOTALL)
    while (inner := re.sub(r"\([^()]*\)", "", flat)) != flat:
        flat = inner
    return {name.strip().strip("'") for name in flat.split(",")[::2]}


def test_sql_writes_declared_fields_alone() -> None:
    by_sqlstate = {cls.sqlstate: cls for cls in subclasses() if cls.sqlstate}
    for sqlstate, statement in raised_in_sql():
        cls = by_sqlstate[sqlstate]
        keys = keys_of(statement)
        assert keys <= set(cls.field_names), statement
        required = {
            field.name
            for field in dataclasses.fields(cls)  # type: ignore[arg-type]  # see core.errors
            if field.default is dataclasses.MISSING
        }
        assert required <= keys, statement


def test_a_domain_error_of_a_vendor_counts_no_attempt() -> None:
    assert TemporarilyUnavailableError.failure_kind is FailureKind.ABSENT
    assert InvalidInputError.in_jobs is InJobs.NEVER
