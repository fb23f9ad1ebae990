"""The SQL calls of the code, listed by release: schema/calls/<version>.sql.

At a release migrations run first and processes overlap, so the code of the release before meets
the new schema. Its list is kept, and a test prepares each of its calls on the present schema.
`python -m scripts.sql_calls` writes the list of the version that pyproject.toml names.
"""

import ast
import re
import sys
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[1]
CALLS = ROOT / "schema" / "calls"
PACKAGES = ("api", "core", "worker")

_STATEMENT = re.compile(r"\s*(?:with|select|insert|update|delete|merge|call)\b", re.IGNORECASE)
_OURS = re.compile(r"\bapp\.\w")
_PARAMETER = re.compile(r"%(?:\((?P<name>\w+)\))?(?P<kind>[stb])|%%")
_HEAD = "-- from "


class Call(msgspec.Struct, frozen=True, order=True):
    """One text with $1, $2 … where the driver has its own marks."""

    module: str
    text: str


class UnreadableError(Exception):
    """A text that is put together from what cannot be known without running it."""


def version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: str = project["version"]
    return found


def collect(root: Path = ROOT) -> list[Call]:
    """Every statement on our schema that a module of the product holds. Raises: UnreadableError."""
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts): ast.parse(path.read_text())
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }
    constants = {name: _constants(tree) for name, tree in modules.items()}
    for name, tree in modules.items():  # what one module takes from another
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in constants:
                for alias in node.names:
                    if alias.name in constants[node.module]:
                        own = alias.asname or alias.name
                        constants[name].setdefault(own, constants[node.module][alias.name])
    fragments = _fragments(modules.values())
    found = {
        Call(module, numbered(text))
        for module, tree in modules.items()
        for text in _statements(module, tree, constants[module], fragments)
    }
    return sorted({call.text: call for call in sorted(found, reverse=True)}.values())


def _fragments(trees: Iterable[ast.Module]) -> set[str]:
    """Names of texts that only serve to put others together."""
    parts: set[str] = set()
    passed: set[str] = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.JoinedStr | ast.BinOp):
            parts |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
        if isinstance(node, ast.Call):
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            passed |= {each.id for each in given if isinstance(each, ast.Name)}
    return parts - passed


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """Names that a module gives to strings, at its top."""
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            targets = [node.target]
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(node, ast.Assign | ast.AnnAssign):
                value = node.value
                if isinstance(value, ast.Constant | ast.JoinedStr | ast.BinOp):
                    found[target.id] = value
    return found


def _statements(
    module: str, tree: ast.Module, constants: Mapping[str, ast.expr], names: set[str]
) -> Iterator[str]:
    fragments = {id(value) for name, value in constants.items() if name in names}
    inner = {
        id(child) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.BinOp)
        for child in ast.walk(node) if child is not node
    }  # fmt: skip
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
            continue
        if id(node) in inner or id(node) in fragments:
            continue
        try:
            text = _text(node, constants)
        except KeyError as error:
            if "app." in "".join(_literals(node)):
                where = f"{module}:{node.lineno}"
                raise UnreadableError(f"{where}: {error} is no text of this code") from None
            continue
        if _STATEMENT.match(text) and _OURS.search(text):
            yield text


def _literals(node: ast.expr) -> Iterator[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value


def _text(node: ast.expr, constants: Mapping[str, ast.expr]) -> str:
    """Raises: KeyError for a name that stands for no string of this code."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_text(value, constants) for value in values)
        case ast.FormattedValue(value=ast.Name(id=name)):
            return _text(constants[name], constants)
        case ast.Name(id=name):
            return _text(constants[name], constants)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left, constants) + _text(right, constants)
        case _:
            raise KeyError(ast.unparse(node))


def numbered(text: str) -> str:
    """The driver's marks as PostgreSQL's own: a name that comes twice is one parameter."""
    numbers: dict[str, int] = {}

    def number(mark: re.Match[str]) -> str:
        if mark[0] == "%%":
            return "%"
        key = mark["name"] or f" {len(numbers)}"
        return f"${numbers.setdefault(key, len(numbers) + 1)}"

    return _PARAMETER.sub(number, textwrap.dedent(text).strip())


def render(calls: list[Call]) -> str:
    return "\n".join(f"{_HEAD}{call.module}\n{call.text};\n" for call in calls)


def parse(text: str) -> list[Call]:
    """What `render` wrote."""
    blocks = text.split(_HEAD)[1:]
    cut = (block.partition("\n") for block in blocks)
    return [Call(module, body.strip().removesuffix(";")) for module, _, body in cut]


def main() -> int:
    path = CALLS / f"{version()}.sql"
    path.parent.mkdir(exist_ok=True)
    try:
        calls = collect()
    except UnreadableError as error:
        print(f"sql_calls: {error}", file=sys.stderr)
        return 1
    path.write_text(render(calls))
    print(f"{path.relative_to(ROOT)}: {len(calls)} calls")
    return 0


if __name__ == "__main__":
    sys.exit(main())
