"""The present text of the database: schema/<noun>.sql and its seeds, in the order they need.

Each file says in its head what it stands on (`-- after: base, people`), so that a new noun is a
new file and no list. A database is built from it only to be compared with the migrated one.
"""

import re
from pathlib import Path

import msgspec

from migrations.runner import commands
from migrations.runner.cluster import cluster_lock
from migrations.runner.errors import MigrationError

PRESENT = Path(__file__).resolve().parents[2] / "schema"

_AFTER = re.compile(r"^-- after:(.*)$", re.MULTILINE)


class Noun(msgspec.Struct, frozen=True):
    name: str
    path: Path
    seeds_path: Path
    after: frozenset[str]

    @property
    def files(self) -> list[Path]:
        return [self.path, self.seeds_path] if self.seeds_path.exists() else [self.path]


def load(directory: Path = PRESENT) -> list[Noun]:
    """All nouns, each behind those it stands on, else by name. Raises: MigrationError."""
    found = {path.stem: _read(path) for path in sorted(directory.glob("*.sql"))}
    for noun in found.values():
        unknown = noun.after - found.keys()
        if unknown:
            raise MigrationError(f"{noun.path.name}: after {', '.join(sorted(unknown))}: no such")
    for path in sorted((directory / "data").glob("*.sql")):
        if path.stem not in found:
            raise MigrationError(f"data/{path.name}: belongs to no noun")
    order: list[Noun] = []
    while found:
        ready = next((noun for noun in found.values() if not noun.after & found.keys()), None)
        if ready is None:
            raise MigrationError(f"each stands on another: {', '.join(found)}")
        order.append(found.pop(ready.name))
    return order


def _read(path: Path) -> Noun:
    lines = _AFTER.findall(path.read_text())
    if len(lines) != 1:
        raise MigrationError(f"{path.name}: its head says once what it stands on: -- after: …")
    return Noun(
        name=path.stem,
        path=path,
        seeds_path=path.parent / "data" / path.name,
        after=frozenset(filter(None, (name.strip() for name in lines[0].split(",")))),
    )


def build(url: str, directory: Path = PRESENT) -> None:
    """Make the present schema in an empty database, as the role of `url`."""
    with cluster_lock(url), commands.connect(url) as conn:
        commands.prepare_ledger(conn)  # app.schema_version reads it
        for noun in load(directory):
            for path in noun.files:
                commands.run_file(conn, path, path.read_bytes())
