"""Command line of the migration runner. Connects with MIGRATION_DATABASE_URL."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from migrations.runner import commands as runner
from migrations.runner import files, present, roles, temporary
from migrations.runner.errors import MigrationError


def _url() -> str:
    url = os.environ.get("MIGRATION_DATABASE_URL")
    if not url:
        raise MigrationError(
            "MIGRATION_DATABASE_URL is not set: the URL of role postgres, in session mode or direct"
        )
    return url


def _warn_superuser(url: str) -> None:
    with runner.connect(url) as conn:
        row = conn.execute("select current_setting('is_superuser')").fetchone()
    if row is not None and row[0] == "on":
        print(
            "migrate: warning: connected as a superuser; production migrates as role postgres, "
            "which is none",
            file=sys.stderr,
        )


def _up(arguments: argparse.Namespace) -> int:
    url = _url()
    _warn_superuser(url)
    for migration in runner.up(
        url, arguments.dir, to=arguments.to, include_late=arguments.include_late
    ):
        print(f"applied    {migration.label}")
    print("up to date" if arguments.to is None else f"at {arguments.to}")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    taken_back = runner.down(_url(), arguments.dir, to=arguments.to, steps=arguments.steps)
    for migration in taken_back:
        print(f"taken back {migration.label}")
    if not taken_back:
        print("nothing to take back")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    found = runner.status(_url(), arguments.dir)
    for row in found.applied:
        at = row.applied_at.isoformat(timespec="seconds") if row.applied_at else "by another tool"
        print(f"applied  {row.version}_{row.name or ''}  {at}")
    for migration in found.pending:
        print(f"pending  {migration.label}")
    for migration in found.changed:
        print(f"changed  {migration.label}")
    for row in found.missing:
        print(f"missing  {row.version}_{row.name or ''}  (not on disk)")
    return 1 if found.changed or found.missing else 0


def _new(arguments: argparse.Namespace) -> int:
    if arguments.empty:
        migration = files.create(arguments.name, arguments.dir)
        print(migration.path)
        print(migration.down_path)
        return 0
    # A program of its own: it needs the local servers, which production does not install.
    folders = [str(arguments.dir), str(arguments.schema)]
    command = [sys.executable, "-m", "scripts.new_migration", arguments.name, *folders]
    return subprocess.run(command, check=False).returncode


def _verify(arguments: argparse.Namespace) -> int:
    lines = files.problems(arguments.dir)
    if os.environ.get("MIGRATION_DATABASE_URL") or not arguments.roundtrip:
        found = runner.status(_url(), arguments.dir)
        lines += [f"{each.label}: changed since it was applied" for each in found.changed]
        lines += [f"{row.version}: applied, but not on disk" for row in found.missing]
        lines += [f"{each.label}: not applied" for each in found.pending]
    for line in lines:
        print(line, file=sys.stderr)
    if lines:
        return 1
    if os.environ.get("MIGRATION_DATABASE_URL"):
        with runner.connect(_url()) as conn:
            if not temporary.is_revoked(conn):
                print(
                    "migrate: warning: anybody who signs in may make temporary objects: as the"
                    " database's owner, revoke temporary on it from public",
                    file=sys.stderr,
                )
    print("migrations: files are sound" + ("" if arguments.roundtrip else " and all applied"))
    if arguments.roundtrip:
        # A program of its own: it needs the local servers, which production does not install.
        command = [sys.executable, "-m", "scripts.roundtrip", str(arguments.dir)]
        return subprocess.run(command, check=False).returncode
    return 0


def _roles(_: argparse.Namespace) -> int:
    names = ("DATABASE_URL", "WORKER_DATABASE_URL")
    urls = {name: os.environ[name] for name in names if os.environ.get(name)}
    if not urls:
        raise MigrationError("set DATABASE_URL, WORKER_DATABASE_URL or both, with passwords")
    passwords = roles.passwords_from_urls(urls)
    roles.set_passwords(_url(), passwords)
    print("can sign in: " + ", ".join(sorted(passwords)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m migrations")
    parser.add_argument(
        "--dir", type=Path, default=files.MIGRATIONS, help="folder of the migrations"
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text)
        added.set_defaults(run=run)
        return added

    up = command("up", _up, "apply what is pending")
    up.add_argument("--to", metavar="VERSION", help="stop after this one")
    up.add_argument(
        "--include-late", action="store_true", help="also files older than what is applied"
    )
    down = command("down", _down, "take back the newest")
    how_far = down.add_mutually_exclusive_group()
    how_far.add_argument("--to", metavar="VERSION", help="back to this one; 0 takes back all")
    how_far.add_argument("--steps", type=int, help="how many (default 1)")
    command("status", _status, "what is applied and what is pending")
    new = command("new", _new, "write the migration that leads to the text in schema/")
    new.add_argument("name")
    new.add_argument(
        "--empty", action="store_true", help="make an empty pair, to be written by hand"
    )
    new.add_argument("--schema", type=Path, default=present.PRESENT, help="the present text")
    verify = command("verify", _verify, "files sound, ledger and disk the same")
    verify.add_argument(
        "--roundtrip", action="store_true", help="also up, down, up in a throw-away database"
    )
    command("roles", _roles, "let the API's and the worker's role sign in")
    return parser


def main() -> int:
    arguments = _parser().parse_args()
    try:
        code: int = arguments.run(arguments)
    except MigrationError as error:
        print(f"migrate: {error}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
