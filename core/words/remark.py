"""Something that is kept and told later: a code and its figures. Words come when it is shown, so
that a row says the same in every language."""

from typing import Any

import msgspec

from core.words.say import SENTENCES, say


class Remark(msgspec.Struct, frozen=True, omit_defaults=True):
    """`code` is a word of a table of core/words; `figures` are JSON-ready."""

    code: str
    figures: dict[str, Any] = {}

    def in_words(self, table: str) -> str:
        """A row may outlive the word that it holds: then the table's `other` speaks."""
        key = f"{table}.{self.code}"
        return say(key if key in SENTENCES else f"{table}.other", **self.figures)
