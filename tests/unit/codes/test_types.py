"""How a code is written and read."""

import hashlib
import re
import uuid

import pytest

from core.codes.types import ALPHABET, PlainCode, digest_of, new_code_text, prefix_of

CODE = "JSG-01AB-CDEF-GHJK-MNPQ"


def test_a_code_has_eighty_bits_in_four_groups() -> None:
    made = {new_code_text() for _ in range(500)}
    assert len(made) == 500
    assert all(re.fullmatch(rf"JSG(-[{ALPHABET}]{{4}}){{4}}", text) for text in made)
    assert len(ALPHABET) == len(set(ALPHABET)) == 2**5
    assert {letter for text in made for letter in text[4:]} == {*ALPHABET, "-"}


@pytest.mark.parametrize(
    "written",
    [
        CODE,
        "jsg-01ab-cdef-ghjk-mnpq",
        "JSG01ABCDEFGHJKMNPQ",
        "01AB CDEF GHJK MNPQ",
        "  jsg 01ab\u00a0cdef\u2013ghjk\u2014mnpq\n",
        "JSG-OIAB-CDEF-GHJK-MNPQ",
        "jsg-olab-cdef-ghjk-mnpq",
        "JSG_01AB.CDEF.GHJK.MNPQ",
    ],
)
def test_it_is_read_however_it_is_written(written: str) -> None:
    assert digest_of(written) == hashlib.sha256(b"01ABCDEFGHJKMNPQ").digest()


@pytest.mark.parametrize(
    "written",
    [
        "",
        "JSG",
        "JSG-01AB-CDEF-GHJK",
        f"{CODE}R",
        f"{CODE}-{CODE}",
        "JSX-01AB-CDEF-GHJK-MNPQ",
        "JSG-U1AB-CDEF-GHJK-MNPQ",
        "JSG-01AB-CDEF-GHJK-MNP!",
        "JSG-01AB-CDEF-GHJK-MNP\u0661",  # a digit, but not one of ours
        "JSG-01AB-CDEF-GHJK-MNP\x00",
    ],
)
def test_what_cannot_be_a_code_is_none(written: str) -> None:
    assert digest_of(written) is None


def test_a_code_may_begin_like_the_brand() -> None:
    text = "JSG-JSG0-0000-0000-0000"
    assert digest_of(text) == digest_of(text.removeprefix("JSG-"))


@pytest.mark.parametrize("written", ["JSG-01AB", "jsg olab", "01ab"])
def test_prefixes_are_read_like_codes(written: str) -> None:
    assert prefix_of(written) == "JSG-01AB"


@pytest.mark.parametrize("written", ["", "JSG", "01A", CODE, "%"])
def test_what_cannot_begin_a_code_is_no_prefix(written: str) -> None:
    assert prefix_of(written) is None


def test_a_code_does_not_show_itself_in_a_log() -> None:
    code = PlainCode(uuid.uuid4(), CODE)
    assert code.prefix == "JSG-01AB"
    assert "CDEF" not in repr(code)
    assert "CDEF" not in f"{[code]}"
