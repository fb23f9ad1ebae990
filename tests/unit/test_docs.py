"""What the texts name exists: files, anchors, commands, routes, settings, figures, log events."""

import re
import tomllib
import xml.etree.ElementTree as ET
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from core.generations.types import GenerationState
from core.settings import Settings
from tests.harness.http import borrowed_app
from tests.harness.settings import build_settings

ROOT = Path(__file__).resolve().parents[2]
GUIDES = ("README.md", "MIGRATION_GUIDE.md", "WORKER_DEPLOYMENT.md", "REDIS_SETUP.md")
TEXTS = (
    *GUIDES,
    "CHANGELOG.md",
    "docs/finding-your-way.md",
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs/decisions").glob("*.md"))),
)
CONFIGS = ("railway.toml", "railway.worker.toml")

# Variables that are no settings: of the tests, of a shell in an example, and older names.
OTHER_VARIABLES = {
    "SUPABASE_ANON_KEY",
    "SUPABASE_SERVICE_ROLE_KEY",
    "STRIPE_CONTRACT_KEY",
    "TEST_DATABASE_URL",
    "USER_ID",
    "MIGRATION_DATABASE_URL",
}
# Keys of fal are numbered; `file.py:NAME` is a constant.
_NO_SETTING = re.compile(r"FAL_AI_KEY_(\d|<n>)(_ACCOUNT)?|\.py:\w+")


def read(name: str) -> str:
    return (ROOT / name).read_text()


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^ *```(?:sh|sql)?\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)


def in_backticks(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", without_code(text))


def anchors(text: str) -> set[str]:
    """As GitHub makes them: lower case, punctuation gone, spaces to hyphens."""
    titles = re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@cache
def all_source() -> str:
    """Everything that runs, as one text."""
    paths = [
        path
        for folder, pattern in (
            ("api", "*.py"),
            ("core", "*.py"),
            ("worker", "*.py"),
            ("scripts", "*.py"),
            ("migrations", "*.sql"),
        )
        for path in (ROOT / folder).rglob(pattern)
    ]
    return "\n".join(path.read_text() for path in paths)


# --- links -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXTS)
def test_relative_links_lead_somewhere(name: str) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", read(name)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / name).parent / unquote(path) if path else ROOT / name
        if not found.exists() or (anchor and anchor not in anchors(found.read_text())):
            wrong.append(target)
    assert wrong == []


@pytest.mark.parametrize("name", TEXTS)
def test_paths_in_the_text_exist(name: str) -> None:
    paths = [
        word
        for word in in_backticks(read(name))
        if re.fullmatch(r"[\w.\-]+/[\w.\-/]*\w\.(py|sql|toml|md|svg)", word)
    ]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_tree_of_the_readme_is_the_tree() -> None:
    block = next(block for block in code_blocks(read("README.md")) if block.startswith("api/"))
    folders = re.findall(r"^(\w+)/ ", block, re.MULTILINE)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert set(folders) == packages | {"docs", "schema"}


# --- commands --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*TEXTS, ".env.example"])
def test_make_targets_exist(name: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    named = re.findall(r"(?:^|`|; |\.\.\. )make ([a-z]+)", read(name), re.MULTILINE)
    assert set(named) <= targets


@pytest.mark.parametrize("name", [*TEXTS, *CONFIGS, ".env.example"])
def test_modules_of_commands_exist(name: str) -> None:
    text = read(name)
    named = set(re.findall(r"python -m ([a-z_.]+\w)", text))
    named |= set(re.findall(r"\b(scripts\.[a-z_.]+\w)", text))
    missing = [
        module
        for module in named - {"venv"}
        if not (ROOT / f"{module.replace('.', '/')}.py").exists()
        and not (ROOT / module.replace(".", "/") / "__main__.py").exists()
    ]
    assert missing == []


def test_commands_of_the_runner_exist() -> None:
    text = "\n".join(read(name) for name in (*GUIDES, *CONFIGS))
    named = set(re.findall(r"python -m migrations (\w+)", text))
    known = set(re.findall(r'command\("(\w+)"', read("migrations/__main__.py")))
    assert named == known
    options = set(re.findall(r"`(--[a-z\-]+)[ `]", read("MIGRATION_GUIDE.md")))
    source = read("migrations/__main__.py")
    assert [option for option in options if f'"{option}"' not in source] == []


@pytest.mark.parametrize("name", CONFIGS)
def test_configuration_of_the_platform(name: str) -> None:
    config = tomllib.loads(read(name))
    assert set(config) == {"build", "deploy"}
    assert "requirements.lock" in config["build"]["buildCommand"]
    deploy: dict[str, Any] = config["deploy"]
    assert "preDeployCommand" not in deploy, "it would run with the migrating role's credentials"
    commands = [deploy["startCommand"]]
    assert all("venv/bin/python -m " in command for command in commands)
    assert deploy["startCommand"].startswith("exec ")
    grace = Settings.model_fields["shutdown_grace_seconds"].default
    assert int(deploy["drainingSeconds"]) >= grace + 5
    if name == "railway.toml":
        assert deploy["healthcheckPath"] == "/readyz"
        assert "python -m api" in deploy["startCommand"]
    else:
        assert "python -m worker" in deploy["startCommand"]


# --- names that the code defines -------------------------------------------------------------


@pytest.mark.parametrize("name", TEXTS)
def test_settings_in_the_text_exist(name: str) -> None:
    words = {
        word
        for code in (*in_backticks(read(name)), *code_blocks(read(name)))
        for word in re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", _NO_SETTING.sub("", code))
    }
    known = {field.upper() for field in Settings.model_fields} | OTHER_VARIABLES
    assert words - known == set()


def test_the_table_of_settings_shows_their_defaults() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([\d.]+) \|", read("WORKER_DEPLOYMENT.md"), re.MULTILINE)
    assert len(rows) >= 10
    for name, shown in rows:
        assert float(shown) == Settings.model_fields[name.lower()].default, name


@pytest.mark.parametrize("name", GUIDES)
def test_routes_in_the_text_exist(name: str) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:9/none"
    settings = build_settings(
        database_url=nowhere,
        worker_database_url=nowhere,
        redis_url="redis://127.0.0.1:9/0",
        redis_prefix="unit",
    )
    with borrowed_app(settings) as app:
        paths = [route.path for route in app.routes]
    known = [re.compile(re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(path))) for path in paths]
    text = read(name)
    named = set(re.findall(r"(?<![\w/])/(?:v1/[\w$/\-]+|readyz|healthz|metrics|docs)\b", text))
    named |= set(re.findall(r"\$API(/v1/[\w$/\-]+)", text))
    missing = [path for path in named if not any(pattern.fullmatch(path) for pattern in known)]
    assert missing == []


@pytest.mark.parametrize("name", GUIDES)
def test_figures_in_the_text_exist(name: str) -> None:
    named = set(re.findall(r"\bjewelshot_[a-z_]+[a-z]\b", read(name)))
    roles = {"jewelshot_api", "jewelshot_worker", "jewelshot_ledger", "jewelshot_admin"}
    prefix = {"jewelshot_http"}  # named as the beginning of several
    missing = [
        figure
        for figure in named - roles - prefix
        # The Prometheus client adds _total to a counter's name by itself.
        if f'"{figure}"' not in all_source()
        and f"'{figure}'" not in all_source()
        and f'"{figure.removesuffix("_total")}"' not in all_source()
        # The database names these by the facts of app.payments_health().
        and f"'{figure.removeprefix('jewelshot_payments_')}'" not in all_source()
    ]
    assert missing == []


@pytest.mark.parametrize("name", GUIDES)
def test_log_events_in_the_text_exist(name: str) -> None:
    areas = set(re.findall(r'log\.\w+\(\s*"([a-z_]+)\.', all_source()))
    named = {
        word
        for word in in_backticks(read(name))
        if re.fullmatch(r"[a-z_]+\.[a-z_]+", word) and word.partition(".")[0] in areas
    }
    assert [event for event in named if f'"{event}"' not in all_source()] == []


@pytest.mark.parametrize("name", TEXTS)
def test_functions_and_tables_in_the_text_exist(name: str) -> None:
    migrations = "\n".join(path.read_text() for path in (ROOT / "migrations").glob("*.sql"))
    named = set(re.findall(r"`(app\.[a-z_]+)(?:\(\))?`", read(name)))
    missing = [
        each
        for each in named
        if not re.search(
            rf"create (?:table|(?:or replace )?function) {re.escape(each)}\b", migrations
        )
    ]
    assert missing == []


def _defines(name: str, word: str) -> bool:
    """Whether the file defines the name: a function, class or constant, a SQL object, a text."""
    text = read(name)
    if name.endswith(".py"):
        names = rf"^(?:async )?(?:def|class) {re.escape(word)}\b|^{re.escape(word)}\b.* = "
        return re.search(names, text, re.MULTILINE) is not None
    if word.startswith("app."):
        created = rf"create (?:table|function) {re.escape(word)}\b"
        return re.search(created, text) is not None
    return word in text


def test_where_the_answers_stand() -> None:
    named = re.findall(r"`([\w./\-]+\.\w+):([^`]+)`", read("docs/finding-your-way.md"))
    assert len(named) >= 30
    assert [f"{name}:{word}" for name, word in named if not _defines(name, word)] == []


# --- the picture and the decisions -----------------------------------------------------------


def test_the_picture_is_sound_and_shows_every_state() -> None:
    root = ET.fromstring(read("docs/flow.svg"))
    words = {(element.text or "").strip() for element in root.iter() if element.text}
    assert {state.value for state in GenerationState} <= words
    assert "http" not in read("docs/flow.svg").replace("http://www.w3.org/2000/svg", "")
    assert "prefers-color-scheme: dark" in read("docs/flow.svg")


def test_decisions_are_numbered_and_have_their_three_parts() -> None:
    paths = sorted((ROOT / "docs/decisions").glob("*.md"))
    numbers = [int(path.name[:4]) for path in paths]
    assert numbers == sorted(set(numbers))
    for path in paths:
        text = path.read_text()
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [
            "Context",
            "Decision",
            "Consequence",
        ], path.name
        assert 10 <= len(text.splitlines()) <= 30, path.name


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_plain(name: str) -> None:
    """No emoji, no dash for a comma, no line that a terminal cuts off, but in tables and code."""
    text = read(name)
    assert not re.search("[\U0001f300-\U0001faff\u2600-\u27bf\u2013\u2014]", text)
    limit = 130
    long = [
        line
        for line in without_code(text).splitlines()
        if len(line) > limit and not line.lstrip().startswith("|")
    ]
    assert long == []
