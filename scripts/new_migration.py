"""Writes the migration that leads to schema/: `python -m migrations new NAME` calls it.

A program of its own, because it needs a server for two throw-away databases, which is a
development dependency, and the runner must work where only the product is installed.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from psycopg.conninfo import make_conninfo

from migrations.runner import commands, files, objects, present
from migrations.runner.draft import Draft, draft
from migrations.runner.errors import MigrationError
from migrations.runner.files import MIGRATIONS
from migrations.runner.objects import Objects
from migrations.runner.present import PRESENT
from migrations.runner.statements import Sources
from sandbox.stack import StackError
from sandbox.stack.platform import LOGIN_ROLES, apply_platform
from scripts.roundtrip import derived_password, scratch_database, scratch_server


@contextlib.contextmanager
def bare_database(server_url: str) -> Iterator[tuple[str, str]]:
    """URLs of the migrating role and of a superuser, in a database with the platform's objects."""
    with scratch_database(server_url) as superuser_url:
        password = derived_password(superuser_url)
        role = apply_platform(superuser_url, dict.fromkeys(("postgres", *LOGIN_ROLES), password))
        yield make_conninfo(superuser_url, user=role, password=password), superuser_url


def migrated_objects(server_url: str, directory: Path = MIGRATIONS) -> Objects:
    with bare_database(server_url) as (url, superuser_url):
        commands.up(url, directory)
        with commands.connect(superuser_url) as conn:
            return objects.read(conn)


def present_objects(server_url: str, directory: Path = PRESENT) -> Objects:
    with bare_database(server_url) as (url, superuser_url):
        present.build(url, directory)
        with commands.connect(superuser_url) as conn:
            return objects.read(conn)


def sources_of(*folders: Path) -> Sources:
    paths = [path for folder in folders for path in sorted(folder.glob("*.sql"))]
    return Sources(path.read_text() for path in paths)


def make_draft(server_url: str, migrations: Path, schema: Path) -> Draft:
    return draft(
        migrated_objects(server_url, migrations),
        present_objects(server_url, schema),
        old=sources_of(migrations),
        new=sources_of(schema),
    )


def main() -> int:
    name, migrations, schema = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    try:
        with scratch_server() as server_url:
            found = make_draft(server_url, migrations, schema)
        if found.by_hand:
            print("schema/ and migrations/ differ in what a person has to write:", file=sys.stderr)
            for line in found.by_hand:
                print(f"  {line}", file=sys.stderr)
            print(
                "Nothing was written. `python -m migrations new --empty NAME` makes the pair for"
                " it; then run this again for the rest.",
                file=sys.stderr,
            )
            return 1
        if not found.up and not found.down:
            print("schema/ and migrations/ say the same: nothing to write")
            return 0
        made = files.create(name, migrations, up=found.up, down=found.down)
    except (MigrationError, StackError) as error:
        print(f"migrate: {error}", file=sys.stderr)
        return 1
    print(made.path)
    print(made.down_path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
