"""A statement that is stored and shown later: a code and its figures. The sentence is looked up
when it is shown, so that rows hold no language."""

from typing import Any

import msgspec

from core.words.say import SENTENCES, say


class Remark(msgspec.Struct, frozen=True, omit_defaults=True):
    """`code` is a word of a table of core/words; `figures` are JSON-ready."""

    code: str
    figures: dict[str, Any] = {}

    def in_words(self, table: str) -> str:
        """A row may hold a code that no longer exists: then the table's `other` is shown."""
        key = f"{table}.{self.code}"
        return say(key if key in SENTENCES else f"{table}.other", **self.figures)
