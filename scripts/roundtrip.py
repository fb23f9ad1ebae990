"""Up, down, up in a throw-away database: each down migration must undo its up migration.

A program of its own, because the throw-away server is a development dependency and the runner
must work where only the product is installed. `python -m scripts.roundtrip`.
"""

import contextlib
import difflib
import hashlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from migrations.runner import commands as runner
from migrations.runner.errors import MigrationError
from migrations.runner.files import MIGRATIONS
from migrations.runner.schema import dump_schema
from sandbox.stack import EmbeddedPostgres, StackError
from sandbox.stack.binaries import postgres_programs
from sandbox.stack.platform import LOGIN_ROLES, apply_platform


@contextlib.contextmanager
def scratch_server() -> Iterator[str]:
    """URL of a superuser: TEST_DATABASE_URL, or a server in a temporary folder."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    folder = Path(tempfile.mkdtemp(prefix="jewelshot-migrate-"))
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder / "postgres", durable=False)
    try:
        server.start()
        yield server.url()
    finally:
        server.remove()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def scratch_database(superuser_url: str) -> Iterator[str]:
    """URL of a superuser in a new empty database, dropped afterwards."""
    name = f"jewelshot_roundtrip_{secrets.token_hex(4)}"
    with runner.connect(superuser_url) as conn:
        conn.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
        try:
            yield make_conninfo(superuser_url, dbname=name)
        finally:
            conn.execute(
                sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
            )


def run_roundtrip(superuser_url: str, directory: Path = MIGRATIONS) -> list[str]:
    """Differences left by up → down → up, as lines of a diff; empty when there are none.

    `superuser_url` names an empty database, which is left migrated.
    """
    password = derived_password(superuser_url)
    role = apply_platform(superuser_url, dict.fromkeys(("postgres", *LOGIN_ROLES), password))
    url = make_conninfo(superuser_url, user=role, password=password)
    runner.up(url, directory)
    first = dump_schema(superuser_url, postgres_programs() / "pg_dump")
    runner.down(url, directory, to="0")
    empty = dump_schema(superuser_url, postgres_programs() / "pg_dump")
    runner.up(url, directory)
    second = dump_schema(superuser_url, postgres_programs() / "pg_dump")
    lines = list(difflib.unified_diff(first, second, "up", "up, down, up", lineterm="", n=2))
    with scratch_database(superuser_url) as blank_url:
        apply_platform(blank_url, dict.fromkeys(("postgres", *LOGIN_ROLES), password))
        with runner.connect(make_conninfo(blank_url, user=role, password=password)) as conn:
            runner.prepare_ledger(conn)
        before = dump_schema(blank_url, postgres_programs() / "pg_dump")
    lines += difflib.unified_diff(before, empty, "before", "up, down", lineterm="", n=2)
    return lines


def derived_password(superuser_url: str) -> str:
    """A password for a server that others use as well: the same in every run, never in the code."""
    parts = conninfo_to_dict(superuser_url)
    seed = f"{parts.get('user')}:{parts.get('password')}".encode()
    return hashlib.scrypt(seed, salt=b"jewelshot-test-roles", n=2**12, r=8, p=1).hex()[:32]


def main() -> int:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else MIGRATIONS
    try:
        with scratch_server() as server_url, scratch_database(server_url) as url:
            lines = run_roundtrip(url, directory)
    except (MigrationError, StackError) as error:
        print(f"migrate: {error}", file=sys.stderr)
        return 1
    for line in lines:
        print(line)
    print("up → down → up: " + ("differs" if lines else "the same schema, and nothing left behind"))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
