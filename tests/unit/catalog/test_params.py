"""Parameters of a stranger against a schema of ours."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.catalog.params import ERRORS_MAX, check
from core.errors import Fault, InvalidInputError

SCENE = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "prompt": {"type": "string", "minLength": 3, "maxLength": 20},
        "preset": {"enum": ["marble", "velvet"]},
        "aspect_ratio": {"enum": ["auto", "1:1"], "default": "1:1"},
        "seed": {"type": "integer", "minimum": 0, "maximum": 100},
        "factor": {"type": "number", "minimum": 1.5, "maximum": 4, "default": 2},
    },
    "anyOf": [{"required": ["prompt"]}, {"required": ["preset"]}],
}


def faults(params: dict[str, Any], schema: dict[str, Any] = SCENE) -> dict[str, str]:
    with pytest.raises(InvalidInputError) as error:
        check(schema, params)
    assert error.value.field == "params"
    assert error.value.reason == "params_do_not_fit"
    return {fault.pointer: fault.detail for fault in error.value.errors}


@pytest.mark.parametrize(
    ("params", "complete"),
    [
        ({"preset": "marble"}, {"preset": "marble", "aspect_ratio": "1:1", "factor": 2}),
        (
            {"prompt": "  on a shell\n", "factor": 3, "aspect_ratio": "auto"},
            {"prompt": "on a shell", "factor": 3, "aspect_ratio": "auto"},
        ),
        (
            {"prompt": "abc", "seed": 7.0},
            {"prompt": "abc", "seed": 7, "aspect_ratio": "1:1", "factor": 2},
        ),
    ],
)
def test_defaults_are_filled_in(params: dict[str, Any], complete: dict[str, Any]) -> None:
    given_before = dict(params)
    checked = check(SCENE, params)
    assert checked == complete
    assert not isinstance(checked.get("seed", 0), float)
    assert params == given_before
    assert check(SCENE, checked) == checked


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, {"#/params": "give at least one of: prompt, preset"}),
        ({"prompt": "ab"}, {"#/params/prompt": "must have at least 3 characters"}),
        ({"prompt": "  \n  "}, {"#/params/prompt": "must have at least 3 characters"}),
        ({"prompt": "a" * 21}, {"#/params/prompt": "must have at most 20 characters"}),
        ({"prompt": 7}, {"#/params/prompt": "must be text"}),
        ({"prompt": None}, {"#/params/prompt": "must be text"}),
        ({"preset": "moon"}, {"#/params/preset": "must be one of: marble, velvet"}),
        ({"preset": "marble", "seed": -1}, {"#/params/seed": "must be at least 0"}),
        ({"preset": "marble", "seed": 101}, {"#/params/seed": "must be at most 100"}),
        ({"preset": "marble", "seed": 1.5}, {"#/params/seed": "must be a whole number"}),
        ({"preset": "marble", "seed": True}, {"#/params/seed": "must be a whole number"}),
        ({"preset": "marble", "factor": "2"}, {"#/params/factor": "must be a number"}),
        (
            {"preset": "marble", "size": 1, "a/b~c": 2},
            {
                "#/params/size": "is not a parameter here; there are: "
                "aspect_ratio, factor, preset, prompt, seed",
                "#/params/a~1b~0c": "is not a parameter here; there are: "
                "aspect_ratio, factor, preset, prompt, seed",
            },
        ),
        (
            {"prompt": "a\x00bcd"},
            {"#/params/prompt": "must not contain control characters"},
        ),
        (
            {"prompt": "ab", "seed": -1},
            {
                "#/params/prompt": "must have at least 3 characters",
                "#/params/seed": "must be at least 0",
            },
        ),
    ],
)
def test_what_does_not_fit_is_said_in_words(
    params: dict[str, Any], expected: dict[str, str]
) -> None:
    assert faults(params) == expected


def test_an_operation_without_parameters() -> None:
    schema = {"type": "object", "additionalProperties": False, "properties": {}}
    assert check(schema, {}) == {}
    assert faults({"a": 1}, schema) == {"#/params/a": "is not a parameter here; there are: none"}


def test_other_rules_have_words_too() -> None:
    schema = {
        "type": "object",
        "required": ["size"],
        "properties": {
            "size": {"type": ["integer", "null"], "exclusiveMinimum": 1, "exclusiveMaximum": 9},
            "shape": {"const": "round"},
            "tags": {"type": "array", "uniqueItems": True},
            "box": {"oneOf": [{"required": ["a"]}, {"required": ["b"]}], "type": "object"},
        },
    }
    assert faults({}, schema) == {"#/params/size": "is required"}
    assert faults({"size": 1}, schema) == {"#/params/size": "must be more than 1"}
    assert faults({"size": 9}, schema) == {"#/params/size": "must be less than 9"}
    assert faults({"size": "a"}, schema) == {"#/params/size": "must be a whole number or null"}
    assert faults({"size": 2, "shape": "x"}, schema) == {"#/params/shape": "must be round"}
    assert faults({"size": 2, "tags": [1, 1]}, schema) == {
        "#/params/tags": "does not fit the parameter's schema"
    }
    assert faults({"size": 2, "box": {}}, schema) == {"#/params/box": "give one of: a, b"}


def test_a_flood_of_mistakes_is_cut_short() -> None:
    assert len(faults({f"x{number}": 1 for number in range(100)})) == ERRORS_MAX


@given(
    st.dictionaries(
        st.sampled_from(["prompt", "preset", "aspect_ratio", "seed", "factor", "else"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: (
                st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2)
            ),
            max_leaves=4,
        ),
    )
)
def test_anything_is_either_checked_or_explained(params: dict[str, Any]) -> None:
    explained: tuple[Fault, ...] = ()
    checked: dict[str, Any] = {}
    try:
        checked = check(SCENE, params)
    except InvalidInputError as error:
        explained = error.errors
    assert bool(explained) != bool(checked)
    if checked:
        assert {"aspect_ratio", "factor"} <= set(checked)
        assert check(SCENE, checked) == checked
