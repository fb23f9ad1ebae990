"""SQL texts, cut into statements, so that a draft can say a function in the words of its file."""

import re
from collections.abc import Iterable, Iterator

_TOKEN = re.compile(
    r"""
    (?P<comment> --[^\n]* | /\*.*?\*/ )
  | (?P<text> '(?:[^']|'')*' | "[^"]*" | (?P<tag>\$\w*\$).*?(?P=tag) )
  | (?P<end> ; )
    """,
    re.VERBOSE | re.DOTALL,
)
_HEAD = re.compile(
    r"create\s+(?:or\s+replace\s+)?(?:constraint\s+)?(?P<kind>function|policy|trigger)\s+"
    r"(?P<name>[\w.]+)"
    r"|comment\s+on\s+(?P<about>function)\s+(?P<commented>[\w.]+)",
    re.IGNORECASE,
)
_ON_TABLE = re.compile(r"\bon\s+(app\.\w+)", re.IGNORECASE)


def split(text: str) -> Iterator[str]:
    """Each statement without its semicolon and without the comments before it."""
    start = 0
    begun = False  # whether anything but space and comments has come since `start`
    place = 0
    for token in _TOKEN.finditer(text):
        begun = begun or bool(text[place : token.start()].strip())
        place = token.end()
        if token["text"]:
            begun = True
        elif token["comment"] and not begun:
            start = token.end()
        elif token["end"]:
            yield text[start : token.start()].strip()
            start, begun = token.end(), False
    if begun or text[place:].strip():
        yield text[start:].strip()


class Sources:
    """The newest statement that makes a function, policy, trigger or comment, by what it makes."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._found: dict[tuple[str, str], str] = {}
        for text in texts:
            for statement in split(text):
                head = _HEAD.match(statement)
                if head is None:
                    continue
                if head["about"]:
                    self._found["comment", head["commented"]] = statement
                    continue
                name = head["name"]
                if head["kind"].lower() != "function":
                    table = _ON_TABLE.search(statement, head.end())
                    name = f"{name} on {table[1]}" if table else name
                self._found[head["kind"].lower(), name] = statement

    def find(self, kind: str, name: str) -> str | None:
        """`name` as in objects.py; of a function without its arguments."""
        return self._found.get((kind, name.partition("(")[0]))
