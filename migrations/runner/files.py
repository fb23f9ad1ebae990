"""Migrations on disk: finding, reading, checking and making them."""

import datetime as dt
import hashlib
import re
from pathlib import Path

import msgspec

from migrations.runner.errors import MigrationError

MIGRATIONS = Path(__file__).resolve().parents[1]

_NAME = re.compile(r"^(\d{14})_([a-z0-9_]+)\.sql$")
# Alone on a line: plpgsql's `begin` has no semicolon.
_TRANSACTION = re.compile(
    r"^\s*(?:begin|commit|rollback|start transaction)\s*;", re.IGNORECASE | re.MULTILINE
)
_PASSWORD = re.compile(r"\bpassword\s+(?:E?'|\$\w*\$)", re.IGNORECASE)

_TEMPLATE = """\
-- {title}

set local lock_timeout = '5s';
set local statement_timeout = '60s';

"""


class Migration(msgspec.Struct, frozen=True):
    """One file and its way back."""

    version: str
    name: str
    path: Path
    down_path: Path
    sql: bytes

    @property
    def checksum(self) -> str:
        """Of the text, so that a checkout with other line ends is still the same migration."""
        return hashlib.sha256(self.sql.replace(b"\r\n", b"\n")).hexdigest()

    @property
    def label(self) -> str:
        return f"{self.version}_{self.name}"

    def down_sql(self) -> bytes:
        try:
            return self.down_path.read_bytes()
        except FileNotFoundError:
            raise MigrationError(f"{self.label} has no way back: {self.down_path}") from None


def load(directory: Path = MIGRATIONS) -> list[Migration]:
    """All migrations in their order. Raises MigrationError for a file that is none."""
    found: dict[str, Migration] = {}
    for path in sorted(directory.glob("*.sql")):
        match = _NAME.match(path.name)
        if match is None:
            raise MigrationError(f"{path}: the name must be <yyyymmddhhmmss>_<lower_case>.sql")
        version, name = match.groups()
        if version in found:
            raise MigrationError(f"{path.name} and {found[version].path.name}: one version, twice")
        found[version] = Migration(
            version=version,
            name=name,
            path=path,
            down_path=directory / "down" / path.name,
            sql=path.read_bytes(),
        )
    return list(found.values())


def problems(directory: Path = MIGRATIONS) -> list[str]:
    """What is wrong with the files themselves, one line each."""
    migrations = load(directory)
    lines = []
    for migration in migrations:
        if not migration.down_path.exists():
            lines.append(f"{migration.label}: no down/{migration.path.name}")
        lines += refusals(migration.path.name, migration.sql)
        if migration.down_path.exists():
            lines += refusals(f"down/{migration.path.name}", migration.down_sql())
    known = {migration.path.name for migration in migrations}
    lines += [
        f"down/{path.name}: belongs to no migration"
        for path in sorted((directory / "down").glob("*.sql"))
        if path.name not in known
    ]
    return lines


def refusals(name: str, text: bytes) -> list[str]:
    """Why a file must not run: it would break out of its transaction or store a secret."""
    decoded = text.decode(errors="replace")
    lines = []
    if _TRANSACTION.search(decoded):
        lines.append(f"{name}: begins or ends a transaction itself; it runs inside one")
    if _PASSWORD.search(decoded):
        lines.append(f"{name}: has a password, which the ledger would keep; use `roles`")
    return lines


def create(name: str, directory: Path = MIGRATIONS, *, up: str = "", down: str = "") -> Migration:
    """Make a migration and its way back, younger than all others."""
    slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if not slug:
        raise MigrationError(f"{name!r} has no letters or digits to name a file with")
    known = load(directory)
    version = dt.datetime.now(dt.UTC).strftime("%Y%m%d%H%M%S")
    if known and version <= known[-1].version:
        raise MigrationError(
            f"{known[-1].path.name} is younger than now: check this machine's clock"
        )
    path = directory / f"{version}_{slug}.sql"
    down_path = directory / "down" / path.name
    down_path.parent.mkdir(parents=True, exist_ok=True)
    title = slug.replace("_", " ")
    path.write_text(_TEMPLATE.format(title=f"{title}: what it makes, and why") + _ended(up))
    down_path.write_text(_TEMPLATE.format(title=f"Way back of {title}") + _ended(down))
    return Migration(
        version=version, name=slug, path=path, down_path=down_path, sql=path.read_bytes()
    )


def _ended(text: str) -> str:
    return f"{text}\n" if text else ""
