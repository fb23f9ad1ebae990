"""A database's schema as text, to compare two of them."""

import os
import re
import subprocess
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from migrations.runner.errors import MigrationError

# pg_dump 18.6 frames its output with a token that is random in each run.
_NOISE = re.compile(r"^(?:--|\\(?:un)?restrict |SET |SELECT pg_catalog\.set_config)")


def dump_schema(url: str, pg_dump: Path) -> list[str]:
    """The lines of `pg_dump --schema-only`: objects, owners, grants, policies, defaults.

    Roles belong to the server and are not in it.
    """
    parts = conninfo_to_dict(url)
    environment = {
        **os.environ,
        "PGHOST": str(parts["host"]),
        "PGPORT": str(parts.get("port") or 5432),
        "PGUSER": str(parts["user"]),
        "PGPASSWORD": str(parts.get("password") or ""),
        "PGDATABASE": str(parts["dbname"]),
        "LC_ALL": "C",
    }
    done = subprocess.run(
        [pg_dump, "--schema-only", "--no-password"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise MigrationError(f"pg_dump failed: {done.stderr.strip()}")
    return [line for line in done.stdout.splitlines() if line and not _NOISE.match(line)]
