"""The house keeps its shape: who may import whom, where a transaction ends, words that SQL and
Python share, and what no file may say."""

import ast
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from api.schemas.generations import LaneName
from core.credits.types import EntryKind, Purpose, Source
from core.generations.endings import Ending
from core.generations.pipeline.types import Role
from core.generations.types import FINISHED_STATES, CallState, GenerationState
from core.payments.types import (
    DisputeState,
    OrderState,
    ReturnOrigin,
    ReturnState,
    ReviewDecision,
)
from core.tasks.queues import Queue
from core.uploads.types import UploadState
from tests.harness.errors import subclasses
from worker.registry import JOBS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("api", "core", "worker", "migrations", "sandbox", "scripts", "tests")

# package | what of ours it may import
MAY_IMPORT = {
    "core": {"core"},
    "api": {"api", "core"},
    "worker": {"worker", "core"},
    "migrations": {"migrations"},
    "sandbox": {"sandbox", "migrations", "core"},
    "scripts": {"scripts", "sandbox", "migrations", "core"},
}
# package | libraries that belong to another part of the house
FOREIGN = {
    "core": {"litestar", "rq", "granian"},
    "api": {"rq", "psycopg_pool", "fal_client"},
    "worker": {"litestar", "granian", "psycopg_pool"},
}
# The one exception: the client that puts ids on RQ's queues.
MAY_IMPORT_RQ = {"core.tasks.wakeups"}

# folder of a vendor's code | the vendor's library, and who else in core may import that folder
CUPBOARDS = {
    "core.generations.providers.fal": ("fal_client", {"core.generations.providers.registry"}),
    "core.payments.stripe": ("stripe", {"core.payments.noun"}),
}

# Errors of the driver are the edge's to see; everything else of SQL is core's.
_SQL_TEXT = re.compile(r"\b(?:from|join|into|update|select) app\.\w")
_ENDS_TRANSACTION = re.compile(r"\.(commit|rollback)\(|\.transaction\(|\bautocommit\b")


def sources(*packages: str) -> Iterator[tuple[str, Path]]:
    """(dotted module name, path) of every Python file of these packages."""
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports_in(node: ast.AST) -> Iterator[str]:
    """Every dotted name that an import below `node` may mean, `a.b` and `a.b.c` both."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            assert child.module is not None
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)


def top(name: str) -> str:
    return name.partition(".")[0]


def module_graph(*packages: str) -> dict[str, set[str]]:
    """Module → modules of these packages that it imports."""
    modules = {name: path for name, path in sources(*packages) if path.stat().st_size}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        graph[name] = set()
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names if alias.name in modules}
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    # A module taken out of its package does not need what the package offers.
                    wanted = [f"{node.module}.{alias.name}", str(node.module)]
                    graph[name] |= set([each for each in wanted if each in modules][:1])
    return graph


def cycles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Sets of nodes that all reach each other; a node alone is none."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for found in graph.get(waiting.pop(), set()) - seen:
                seen.add(found)
                waiting.append(found)
        reached[start] = seen
    tied = {node: {other for other in reached[node] if node in reached[other]} for node in graph}
    return [set(group) for group in {frozenset(group) for group in tied.values() if group}]


# --- imports ---------------------------------------------------------------------------------


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_inwards(package: str) -> None:
    wrong = [
        f"{name} imports {found}"
        for name, path in sources(package)
        for found in imports_in(tree_of(path))
        if top(found) in PACKAGES and top(found) not in MAY_IMPORT[package]
    ]
    assert wrong == []


def test_bytes_of_strangers_meet_no_codec_in_the_api() -> None:
    """What the API calls to look at a file reaches no parser written in C or C++."""
    graph = module_graph("core")
    reached, waiting = set[str](), ["core.pixels.sniff"]
    while waiting:
        module = waiting.pop()
        reached.add(module)
        waiting += graph[module] - reached
    paths = dict(sources("core"))
    found = {top(name) for module in reached for name in imports_in(tree_of(paths[module]))}
    assert "core" in found
    assert not found & {"PIL", "pillow_heif", "numpy"}
    allowed = {
        "core.pixels.errors",
        "core.pixels.sniff",
        "core.pixels.limits",
        "core.pixels.formats.base",
    }
    wrong = [
        f"{name} imports {imported}"
        for name, path in sources("api")
        for imported in imports_in(tree_of(path))
        if imported.startswith("core.pixels.")
        and imported.rpartition(".")[0] not in allowed
        and imported not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("package", FOREIGN)
def test_each_part_has_its_own_libraries(package: str) -> None:
    wrong = [
        f"{name} imports {found}"
        for name, path in sources(package)
        for found in imports_in(tree_of(path))
        if top(found) in FOREIGN[package]
        and not (top(found) == "rq" and name in MAY_IMPORT_RQ)
        and not (top(found) == "psycopg_pool" and name == "core.db")
    ]
    assert wrong == []


@pytest.mark.parametrize("cupboard", CUPBOARDS)
def test_a_vendor_is_known_in_its_cupboard_only(cupboard: str) -> None:
    library, also = CUPBOARDS[cupboard]
    wrong = [
        f"{name} imports {found}"
        for name, path in sources("core", "api", "worker", "scripts")
        for found in imports_in(tree_of(path))
        if not f"{name}.".startswith(f"{cupboard}.")
        and (
            top(found) == library
            or (f"{found}.".startswith(f"{cupboard}.") and top(name) == "core" and name not in also)
        )
    ]
    assert wrong == []


def test_no_module_of_core_speaks_of_a_provider_of_images() -> None:
    """What is fal's stands in its folder; the settings name its keys and addresses."""
    may = ("core.generations.providers.fal.", "core.generations.providers.registry.")
    wrong = [
        f"{name}: {line.strip()}"
        for name, path in sources("core")
        if not f"{name}.".startswith((*may, "core.settings."))
        for line in path.read_text().splitlines()
        if re.search(r"(?i)(?<![a-z])fal(?![a-z])", line)
    ]
    assert wrong == []


def test_no_import_inside_a_function() -> None:
    wrong = [
        f"{name}:{node.lineno} {node.name}"
        for name, path in sources("api", "core", "worker", "migrations", "sandbox", "scripts")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(isinstance(child, ast.Import | ast.ImportFrom) for child in ast.walk(node))
    ]
    assert wrong == []


def test_constants_are_explained_by_a_comment_before() -> None:
    """A field or a word of an enum by the docstring after it; so nobody looks in two places."""
    after = [
        f"{name}:{text.lineno}"
        for name, path in sources(*PACKAGES)
        for constant, text in itertools.pairwise(ast.parse(path.read_text()).body)
        if isinstance(constant, ast.Assign | ast.AnnAssign)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    ]
    assert after == []


def test_no_module_imports_itself_through_others() -> None:
    assert cycles(module_graph("api", "core", "worker", "migrations", "sandbox", "scripts")) == []


def test_nouns_of_core_stand_in_one_order() -> None:
    nouns: defaultdict[str, set[str]] = defaultdict(set)
    for name, found in module_graph("core").items():
        noun = name.split(".")[1]
        nouns[noun] |= {other.split(".")[1] for other in found if other != "core"} - {noun}
    assert cycles(nouns) == []


def test_a_cycle_would_be_seen() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]


# --- transactions ----------------------------------------------------------------------------


def test_transactions_end_in_core_db_only() -> None:
    wrong = [
        f"{name}: {line.strip()}"
        for name, path in sources("api", "core", "worker")
        if name != "core.db"
        for line in path.read_text().splitlines()
        if _ENDS_TRANSACTION.search(line)
    ]
    assert wrong == []


def test_no_route_speaks_sql() -> None:
    wrong = [
        f"{name}:{node.lineno} {node.value[:60]!r}"
        for name, path in sources("api")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _SQL_TEXT.search(node.value)
    ]
    assert wrong == []


def test_routes_leave_keys_pages_waits_and_tasks_to_others() -> None:
    """They are api/http's, and later work is woken by the transaction that adds it."""
    machinery = re.compile(
        r"\bidempotency\b|next_cursor|\blimit \+ 1\b|\"(?:Prefer|Idempotency-Key|Retry-After)\""
        r"|Preference-Applied|\basyncio\.sleep\(|core\.tasks\.(?:outbox|wakeups)|\.queue\b"
    )
    found = [
        f"{module}: {line.strip()}"
        for module, path in sources("api")
        if module.startswith(("api.routes", "api.pages"))
        for line in path.read_text().splitlines()
        if machinery.search(line)
    ]
    assert found == []


# --- migrations ------------------------------------------------------------------------------


@cache
def migrations_text() -> str:
    paths = sorted((ROOT / "migrations").glob("*.sql"))
    assert paths
    return "\n".join(path.read_text() for path in paths)


def schema_text() -> str:
    """What SQL says now; migrations also say what it said."""
    paths = sorted((ROOT / "schema").glob("*.sql"))
    assert paths
    return "\n".join(path.read_text() for path in paths)


def test_each_migration_has_a_way_back_and_each_way_back_a_migration() -> None:
    there = {path.name for path in (ROOT / "migrations").glob("*.sql")}
    back = {path.name for path in (ROOT / "migrations" / "down").glob("*.sql")}
    assert there == back
    assert all(re.fullmatch(r"\d{14}_[a-z0-9_]+\.sql", name) for name in there)


def allowed_by(constraint: str) -> set[str]:
    """The words of `check (column in ('a', 'b'))` in the constraint's newest definition."""
    found = re.findall(
        rf"constraint {constraint}\s+check \(\w+ in \(([^()]*)\)\)", migrations_text()
    )
    assert found, f"no constraint {constraint}"
    return set(re.findall(r"'([^']*)'", found[-1]))


@pytest.mark.parametrize(
    ("words", "constraint"),
    [
        (GenerationState, "generations_state"),
        (Ending, "generations_ending"),
        (CallState, "provider_calls_state"),
        (UploadState, "uploads_state"),
        (EntryKind, "ledger_transfers_kind"),
        (Source, "credit_lots_source"),
        (Purpose, "reservations_purpose"),
        (OrderState, "orders_state"),
        (ReturnState, "payment_returns_state"),
        (ReturnOrigin, "payment_returns_origin"),
        (DisputeState, "payment_disputes_state"),
        (ReviewDecision, "orders_review_decision"),
    ],
)
def test_words_of_python_and_sql_are_the_same(words: type[StrEnum], constraint: str) -> None:
    assert {word.value for word in words} == allowed_by(constraint)


def test_other_shared_words_are_the_same() -> None:
    lanes = set(get_args(LaneName))
    assert lanes == allowed_by("operations_lane") == allowed_by("generations_lane")
    finished = re.search(r"constraint generations_finished check \(\s+\(state in \(([^()]*)\)\) = ",
                         migrations_text())  # fmt: skip
    assert finished is not None
    assert set(re.findall(r"'(\w+)'", finished.group(1))) == FINISHED_STATES
    roles = re.search(r"v_role := case(.*?)end;", migrations_text(), re.DOTALL)
    assert roles is not None
    assert set(re.findall(r"(?:then|else) '(\w+)'", roles.group(1))) == set(Role)


def test_every_state_of_the_database_is_a_strenum() -> None:
    """A new `<table>_state` constraint has to be named above, or here as nobody's in Python."""
    only_sql = {"reservations_state"}
    known = {
        "generations_state",
        "orders_state",
        "payment_disputes_state",
        "payment_returns_state",
        "provider_calls_state",
        "uploads_state",
    }
    named = set(re.findall(r"constraint (\w+_state)\s+check", migrations_text()))
    assert named - {"provider_accounts_breaker_state"} == known | only_sql


def test_every_job_that_sql_names_is_registered() -> None:
    named = set(re.findall(r"app\.add_task\(\s*'([\w.]+)'", migrations_text()))
    schedules = re.findall(
        r"insert into app\.schedules \(name, job, every_seconds\)\s+values([^;]*);",
        migrations_text(),
    )
    assert schedules
    for values in schedules:
        named |= set(re.findall(r"\('[\w.]+', '([\w.]+)', \d+\)", values))
    assert named
    assert named <= set(JOBS)


def _add_task_calls(text: str) -> Iterator[str]:
    """What stands between the brackets of each."""
    for found in re.finditer(r"\bapp\.add_task\(", text):
        depth, end = 1, found.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        yield text[found.end() : end - 1]


def test_sql_names_no_queue() -> None:
    """A task's queue is its job's, which says it once (core/tasks/queues.py)."""
    named = "|".join(["interactive", *Queue])
    naming = [
        f"{path.name}: add_task({' '.join(given.split())})"
        for path in sorted((ROOT / "schema").glob("*.sql"))
        for given in _add_task_calls(path.read_text())
        if re.search(rf"'(?:{named})'", given)
    ]
    assert naming == []


def test_every_sqlstate_of_ours_has_an_error() -> None:
    raised = set(re.findall(r"errcode = '(JS\d{3})'", migrations_text()))
    assert raised
    assert raised <= {cls.sqlstate for cls in subclasses()}


# --- tests -----------------------------------------------------------------------------------

_REWRITES_TIME = re.compile(
    r"update app\.\w+ set\b[^;]*?\b\w+_(?:at|until) = (?:(?:app|pg_catalog)\.)?"
    r"(?:\w*now\(\)|\w+_(?:at|until)) - interval"
)


def _patches(tree: ast.Module) -> Iterator[str]:
    """Targets of monkeypatch.setattr and the like, but for attributes of libraries."""
    libraries = {
        (alias.asname or alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if top(alias.name) not in PACKAGES
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (name for name in imports_in(node) if "mock" in name.split("."))
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr not in {"setattr", "setitem", "patch"}:
            continue
        target = node.args[0] if node.args else None
        if isinstance(target, ast.Name) and target.id in libraries:
            continue
        if isinstance(target, ast.Constant) and top(str(target.value)) not in PACKAGES:
            continue
        yield ast.unparse(node)


def _writes_to_privates(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            if (
                isinstance(target, ast.Attribute)
                and target.attr.startswith("_")
                and not (isinstance(target.value, ast.Name) and target.value.id in {"self", "run"})
            ):
                yield ast.unparse(node)


def test_tests_do_not_patch_our_own_code() -> None:
    """A fault comes from a stand-in, a wire or a server that misbehaves: then it is a real one."""
    wrong = [
        f"{name}: {found}"
        for name, path in sources("tests")
        for found in (*_patches(tree_of(path)), *_writes_to_privates(tree_of(path)))
    ]
    assert wrong == []


def test_a_patch_would_be_seen() -> None:
    text = (
        "import socket\nfrom core import db\nfrom unittest import mock\n"
        "def test(monkeypatch):\n"
        "    monkeypatch.setattr(socket, 'getaddrinfo', 1)\n"
        "    monkeypatch.setattr(db, 'run', 1)\n"
        "    monkeypatch.setattr('core.db.run', 1)\n"
        "    db._pool = 1\n"
    )
    tree = ast.parse(text)
    assert [*_patches(tree), *_writes_to_privates(tree)] == [
        "unittest.mock",
        "monkeypatch.setattr(db, 'run', 1)",
        "monkeypatch.setattr('core.db.run', 1)",
        "db._pool = 1",
    ]


_WALL_CLOCK = re.compile(r"\b(?:datetime|date|dt\.datetime)\.(?:now|utcnow|today)\(|\btime\.time\(")


def test_the_pipeline_reads_no_clock_of_its_own() -> None:
    """Every time that decides is the database's: a worker whose clock is wrong does no harm."""
    assert _WALL_CLOCK.search("since = datetime.now(UTC)")
    found = [
        name
        for name, path in sources("core/generations/pipeline", "core/tasks", "worker")
        if _WALL_CLOCK.search(path.read_text())
    ]
    assert found == []


def test_time_passes_by_the_clock_alone() -> None:
    """No test moves the times of rows, and only the harness replaces the database's clock."""
    rewriting = [
        name
        for name, path in sources("tests")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _REWRITES_TIME.search(node.value)
    ]
    assert rewriting == []
    replaced = re.compile(r"replace function app\.(?:clock_)?now\b")
    packages = ("api", "core", "worker", "migrations", "sandbox", "scripts", "tests")
    assert [name for name, path in sources(*packages) if replaced.search(path.read_text())] == [
        "tests.harness.clock"
    ]


# --- words -----------------------------------------------------------------------------------

_TEXT = {".py", ".sql", ".md", ".toml", ".lock", ".txt", ".json", ".html", ".js", ".css", ".svg"}
_NAMES = {"Makefile", "run", ".env.example", ".gitignore"}


def own_files() -> Iterator[tuple[str, str]]:
    """(path, text) of what belongs to the repository, as .gitignore draws the line."""
    ignored = {
        line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line
    } | {".git"}
    waiting = [ROOT]
    while waiting:
        for path in sorted(waiting.pop().iterdir()):
            if path.name in ignored or path.is_symlink():
                continue
            if path.is_dir():
                waiting.append(path)
            elif path.suffix in _TEXT or path.name in _NAMES:
                yield str(path.relative_to(ROOT)), path.read_text(errors="replace")


# In parts, so that this file does not say what no file may say.
REGISTRY_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("debian", "org"),
        ("ubuntu", "com"),
        ("crates", "io"),
        ("rubygems", "org"),
        ("proxy", "golang", "org"),
    )
)
_TRACKER = re.compile(
    r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b"
    r"|\b(?:issue|ticket|pull request|pr)\s*#\s*\d"
    r"|\bissue\s+\d+\b|\b(?:closes|fixes|resolves)\s+#\d",
    re.IGNORECASE,
)  # fmt: skip


def test_no_file_names_a_package_registry() -> None:
    wrong = [
        f"{name}: {host}" for name, text in own_files() for host in REGISTRY_HOSTS if host in text
    ]
    assert wrong == []


def test_no_file_speaks_of_a_tracker_or_leaves_work_for_later() -> None:
    wrong = [
        f"{name}: {found.group()!r}"
        for name, text in own_files()
        if not name.endswith((".lock", ".json")) and not name.startswith("core/people/data/")
        for found in _TRACKER.finditer(text)
    ]
    assert wrong == []


def test_the_files_that_are_searched_are_the_repository() -> None:
    names = {name for name, _ in own_files()}
    assert {"README.md", "Makefile", ".ci/run", "requirements.lock", "core/db.py"} <= names
    assert not any(name.startswith((".venv", ".state")) for name in names)
