"""`.env.example` lists exactly what core.settings reads, with its real defaults, and no secret."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from pydantic import SecretStr

from core.settings import Environment, Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / ".env.example"
_LINE = re.compile(r"^(# )?([A-Z][A-Z0-9_]*)=(.*)$")
_FAL_KEY = re.compile(r"^FAL_AI_KEY_(\d+|<n>)(_ACCOUNT)?$")

# Other names of the same: told in a comment, not given a line of their own.
ALIASES = {
    "SUPABASE_ANON_KEY",
    "SUPABASE_SERVICE_ROLE_KEY",
    "STRIPE_WEBHOOK_SECRET",
    "STRIPE_API_BASE",
}
# The keys are a pattern, not a field of their own.
PATTERN_FIELD = "fal_keys"
# Of commands and pipelines; what serves does not read it.
NOT_FOR_SERVICES = {"MIGRATION_DATABASE_URL"}
# It has a default, which production refuses.
MUST_BE_SAID = {"TRUSTED_PROXIES"}


def lines() -> list[tuple[str, bool, str]]:
    """(name, is optional, value as a shell reads it) of each line."""
    found = []
    for line in EXAMPLE.read_text().splitlines():
        match = _LINE.match(line)
        if match:
            optional, name, raw = match.groups()
            found.append((name, optional is not None, "".join(shlex.split(raw))))
    return found


def environ(*, with_optional: bool) -> dict[str, str]:
    return {name: value for name, optional, value in lines() if with_optional or not optional}


def shown(value: object) -> str:
    """A default as one would write it in the file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Environment):
        return value.value
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, float):
        return f"{value:g}"
    assert isinstance(value, str | int)
    return str(value)


def test_it_lists_exactly_the_fields_of_settings() -> None:
    names = [name for name, _, _ in lines()]
    assert len(names) == len(set(names)), "a name stands twice"
    own = {name for name in names if not _FAL_KEY.match(name)}
    fields = {name.upper() for name in Settings.model_fields if name != PATTERN_FIELD}
    assert own == fields | NOT_FOR_SERVICES
    assert {"FAL_AI_KEY_1", "FAL_AI_KEY_1_ACCOUNT"} <= set(names)


def test_it_names_the_older_names() -> None:
    text = EXAMPLE.read_text()
    assert all(alias in text for alias in ALIASES)


def test_optional_lines_show_the_real_defaults() -> None:
    for name, optional, value in lines():
        if name in MUST_BE_SAID:
            assert not optional
            continue
        field = Settings.model_fields.get(name.lower())
        if field is None or field.is_required():
            assert optional == name.endswith("_ACCOUNT"), f"{name}: required, so no comment sign"
            continue
        default = field.get_default(call_default_factory=True)
        if default is None:
            assert value == "" or not optional, f"{name} has no default"
        else:
            assert value == shown(default), f"{name}: the default is {shown(default)}"


@pytest.mark.parametrize("with_optional", [False, True])
def test_settings_can_be_built_from_it(*, with_optional: bool) -> None:
    settings = load_settings(environ(with_optional=with_optional))
    assert settings.app_env is Environment.PRODUCTION
    assert [key.name for key in settings.fal_keys] == ["FAL_AI_KEY_1"]
    assert settings.fal_keys[0].account == "default"


def test_nothing_but_the_required_lines_decides() -> None:
    assert load_settings(environ(with_optional=True)) == load_settings(environ(with_optional=False))


def test_a_shell_reads_it_as_we_do() -> None:
    """`set -a; . ./.env` is what its first lines recommend."""
    wanted = environ(with_optional=False)
    script = 'set -a; . "$1"; shift; for name; do eval "printf \'%s\\0\' \\"\\$$name\\""; done'
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", str(EXAMPLE), *wanted],
        env={},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\0")[:-1] == list(wanted.values())


def test_each_line_is_explained() -> None:
    """A comment above the line, or above the block of lines that it stands in."""
    explained = False
    for line in EXAMPLE.read_text().splitlines():
        if _LINE.match(line):
            assert explained, line
        elif line.startswith("# "):
            explained = not line.startswith("# ---")
        elif line == "":
            explained = False


def test_secrets_are_placeholders() -> None:
    settings = load_settings(environ(with_optional=True))
    secrets = [value for _, value in settings if isinstance(value, SecretStr)]
    secrets += [key.secret for key in settings.fal_keys]
    assert secrets
    for secret in secrets:
        assert re.search(r"PASSWORD|YOUR", secret.get_secret_value())
