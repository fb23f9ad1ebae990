"""Shapes of fal's failures, and the small print in their headers."""

import email.utils
import json
import time
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.generations.providers.fal import answers
from core.generations.providers.fal.answers import ErrorFacts, Reply, read_json
from core.generations.providers.types import FailureCause


def reply(status: int, body: Any = b"", **headers: str) -> Reply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, httpx.Headers(named), content, read_json(content))


@pytest.mark.parametrize(
    ("body", "facts"),
    [
        (
            {"detail": [{"loc": ["body", "prompt"], "msg": "required", "type": "missing"}]},
            ErrorFacts("missing", "body.prompt: required"),
        ),
        (
            {"detail": [{"type": "missing"}, {"type": "content_policy_violation", "msg": "no"}]},
            ErrorFacts("content_policy_violation", "missing; no"),
        ),
        (
            {"detail": "timed out", "error_type": "request_timeout"},
            ErrorFacts("request_timeout", "timed out"),
        ),
        ({"detail": "plain"}, ErrorFacts(None, "plain")),
        ({"status": "NOT_FOUND"}, ErrorFacts(None, "NOT_FOUND")),
        ({"detail": []}, ErrorFacts(None, None)),
        ({"detail": ["odd", 7]}, ErrorFacts(None, None)),
        ({"detail": {"odd": 1}, "error_type": 7}, ErrorFacts(None, None)),
        (b"<html>gateway</html>", ErrorFacts(None, "<html>gateway</html>")),
        (b"", ErrorFacts(None, None)),
        (b"\xff\xfe", ErrorFacts(None, "\ufffd\ufffd")),
    ],
)
def test_shapes(body: Any, facts: ErrorFacts) -> None:
    assert answers.read_error(reply(422, body)) == facts


def test_the_header_names_the_type_where_the_body_does_not() -> None:
    headers = {"x_fal_error_type": "runner_disconnected"}
    assert answers.read_error(reply(503, {"detail": "x"}, **headers)).error_type == (
        "runner_disconnected"
    )
    assert answers.read_error(reply(503, b"<html>", **headers)).error_type == (
        "runner_disconnected"
    )


@pytest.mark.parametrize(
    ("raw", "units"),
    [
        ("0", Decimal(0)),
        ("4", Decimal(4)),
        ("0.12345678", Decimal("0.12345678")),
        ("many", None),
        ("NaN", None),
        ("-1", None),
        ("Infinity", None),
        ("", None),
    ],
)
def test_billable_units(raw: str, units: Decimal | None) -> None:
    assert answers.billable_units(reply(200, {}, x_fal_billable_units=raw)) == units


def test_no_bill() -> None:
    assert answers.billable_units(reply(200, {})) is None


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("86400", 3600.0),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", None),
    ],
)
def test_retry_after(raw: str, seconds: float | None) -> None:
    assert answers.retry_after_seconds(reply(429, b"", retry_after=raw)) == seconds


def test_retry_after_as_a_date() -> None:
    soon = email.utils.formatdate(time.time() + 60, usegmt=True)
    seconds = answers.retry_after_seconds(reply(429, b"", retry_after=soon))
    assert seconds is not None
    assert 50 < seconds <= 60
    # A day behind or ahead of the one who sent it: its own clock says how long.
    for sent in (time.time() - 86_400, time.time() + 86_400):
        date, until = (email.utils.formatdate(at, usegmt=True) for at in (sent, sent + 60))
        answer = reply(429, b"", retry_after=until, date=date)
        assert answers.retry_after_seconds(answer) == 60


@given(
    status=st.integers(300, 599),
    content=st.one_of(
        st.binary(max_size=40),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["detail", "error_type", "type", "loc", "msg", "status"]),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
    ),
)
def test_no_answer_is_too_strange(status: int, content: bytes) -> None:
    answer = reply(status, content)
    answers.submit_refused(answer)
    answers.unreachable(answer)
    answers.is_conclusive(answer)
    failure = answers.failure(answer)
    assert not (failure.is_retryable and failure.cause is not FailureCause.PROVIDER)
