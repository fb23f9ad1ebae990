"""Sentences for people, by keys that belong to no language: `say("lane.locked")`.

The sentences stand in `en.toml` beside this file, and nowhere else. Code, SQL and the wire use
the keys alone, so that a second language is a second file. A sentence names the figures that it
shows as `{name}` or `{name:form}`; the forms are below, or the name of a table of shorter words.
"""

import math
import string
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any


def _credits(amount: int) -> str:
    return "1 credit" if amount == 1 else f"{amount} credits"


def _units(amount: str) -> str:
    return "1 unit" if amount == "1" else f"{amount} units"


def _duration(seconds: float) -> str:
    """Rounded up, because it says when something is possible again."""
    minutes = math.ceil(seconds / 60)
    if minutes <= 90:
        return "1 minute" if minutes <= 1 else f"{minutes} minutes"
    hours = math.ceil(minutes / 60)
    return f"{hours} hours" if hours <= 48 else f"{math.ceil(hours / 24)} days"


def _day(moment: datetime) -> str:
    return f"{moment.day} {moment:%B %Y}"


_FORMS: dict[str, Callable[[Any], str]] = {
    "credits": _credits,
    "day": _day,
    "duration": _duration,
    "list": lambda values: ", ".join(str(value) for value in values),
    "megabytes": lambda size_bytes: f"{size_bytes / 1e6:.4g} MB",
    "megapixels": lambda pixels: f"{pixels / 1e6:.4g} megapixels",
    "plain": lambda number: f"{number:g}",
    "spaced": lambda word: str(word).replace("_", " "),
    "types": lambda names: " or ".join(say(f"json_type.{name}") for name in names),
    "units": _units,
}


class _Formatter(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        if not format_spec:
            return str(value)
        form = _FORMS.get(format_spec)
        return say(f"{format_spec}.{value}") if form is None else form(value)

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        assert isinstance(key, str), "figures have names"
        return super().get_value(key, args, kwargs)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in table.items():
        if isinstance(value, str):
            yield f"{prefix}{name}", value
        else:
            yield from _flat(value, f"{prefix}{name}.")


def _load(language: str) -> dict[str, str]:
    text = Path(__file__).with_name(f"{language}.toml").read_text(encoding="utf-8")
    return dict(_flat(tomllib.loads(text)))


SENTENCES = _load("en")
_FORMATTER = _Formatter()


def say(key: str, /, **figures: Any) -> str:
    """The sentence. Figures that it does not name are ignored.

    Raises: KeyError for a key or a figure that is missing, which is a programmer's error.
    """
    return _FORMATTER.vformat(SENTENCES[key], (), figures)


def figures_of(key: str) -> set[str]:
    """The names of the figures that the sentence shows."""
    return {name for _, name, _, _ in _FORMATTER.parse(SENTENCES[key]) if name}
