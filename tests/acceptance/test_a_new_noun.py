"""What a new noun costs: its own files, and a line in two lists.

`tests/toy_noun` holds a whole noun, laid out as it would lie in the repository: a table, a job, an
event, a proof, a figure and a route. (One with an error of its own adds its row in api/problems and
its sentence in core/words.) It is added to a copy of the tree; then the tree's own tests
of its shape, of its schema and of the noun run there.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.run import Run

ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT / "tests" / "toy_noun"
TREE = (
    ".ci",
    "api",
    "core",
    "docs",
    "migrations",
    "sandbox",
    "schema",
    "scripts",
    "tests",
    "worker",
)

# file | the line before | the line that the noun adds
LINES = (
    (
        "core/nouns.py",
        "from core.tasks.noun import NOUN as TASKS",
        "from core.toys.noun import NOUN as TOYS",
    ),
    ("api/routes/__init__.py", "    refunds,", "    toys,"),
)
TESTS = (
    "tests/integration/toys",
    "tests/unit/test_structure.py",
    "tests/integration/events",
    "tests/migrations/test_privileges.py",
    "tests/migrations/test_present.py::test_the_present_text_and_the_migrations_make_the_same",
)


def copied_tree(to: Path) -> Path:
    for name in TREE:
        shutil.copytree(
            ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__", "toy_noun")
        )
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, to / path.name)
    return to


def add_line(path: Path, before: str, line: str) -> None:
    lines = path.read_text().splitlines()
    lines.insert(lines.index(before) + 1, line)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_noun_costs_its_own_files_and_a_line_in_two_lists(tmp_path: Path, test_run: Run) -> None:
    tree = copied_tree(tmp_path / "house")
    own = [path.relative_to(TOY) for path in TOY.rglob("*") if path.is_file()]
    assert not [path for path in own if (tree / path).exists()], "no file of others is replaced"
    shutil.copytree(TOY, tree, dirs_exist_ok=True)
    shutil.copy(TOY / "schema/toys.sql", tree / "migrations/20991231000000_toys.sql")
    for name, after, line in LINES:
        add_line(tree / name, after, line)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTEST")
    } | {"TEST_DATABASE_URL": test_run.server().superuser_url}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *TESTS],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-1000:]
