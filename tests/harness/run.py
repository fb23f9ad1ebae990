"""One run of the tests: its folder, and the servers that all its processes share.

pytest-xdist starts several processes. The first one that needs PostgreSQL starts it and migrates
a template; the main process, which outlives the others, stops it. A run that was killed leaves
servers behind: the next run ends them.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import msgspec
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from migrations.runner import commands as runner
from migrations.runner import roles
from migrations.runner.cluster import cluster_lock
from sandbox.stack import EmbeddedPostgres, EmbeddedValkey
from sandbox.stack.platform import LOGIN_ROLES, apply_platform
from scripts.roundtrip import derived_password

FOLDER_VARIABLE = "JEWELSHOT_TEST_RUN"
_PREFIX = "jewelshot-tests-"
_MEMORY_BYTES_MIN = 4 * 1024**3


class Server(msgspec.Struct, frozen=True):
    """A PostgreSQL server with a migrated database to clone. All roles share one password."""

    superuser_url: str
    migration_role: str
    password: str
    template: str

    def url(self, database: str, role: str | None = None) -> str:
        """URL of `role`, by default the superuser."""
        if role is None:
            return make_url(self.superuser_url, dbname=database)
        return make_url(self.superuser_url, dbname=database, user=role, password=self.password)


def make_url(url: str, **changes: str) -> str:
    """`url` with other parts, still as a URL: that is what settings and the CLI take."""
    parts = {**conninfo_to_dict(url), **changes}
    names = {"host", "port", "user", "password", "dbname"}
    rest = {name: value for name, value in parts.items() if name not in names}
    query = "&".join(f"{name}={value}" for name, value in rest.items())
    password = f":{parts['password']}" if parts.get("password") else ""
    host = str(parts["host"])
    if ":" in host:
        host = f"[{host}]"
    base = f"postgresql://{parts['user']}{password}@{host}:{parts.get('port') or 5432}"
    return f"{base}/{parts['dbname']}" + (f"?{query}" if query else "")


class Run:
    """The folder of a run. `begin` and `end` are the main process's; all others `join`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._alive: IO[str] | None = None
        self._server: Server | None = None
        self._conn: psycopg.Connection | None = None

    @classmethod
    def begin(cls) -> "Run":
        _end_dead_runs()
        run = cls(Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_roots()[0])))
        run.folder.chmod(0o711)  # under root the server's account passes through
        draft = run.folder / "alive.new"
        run._alive = draft.open("w")
        fcntl.flock(run._alive, fcntl.LOCK_EX)
        draft.rename(run.folder / "alive")
        os.environ[FOLDER_VARIABLE] = str(run.folder)
        run._trust_nobody()
        os.environ["JEWELSHOT_SANDBOX_PICTURES"] = str(run.folder / "pictures")
        return run

    def _trust_nobody(self) -> None:
        """No certificate, for this process and all that it starts: nothing here speaks TLS, and
        reading the world's certificates costs each HTTP client 20 ms."""
        nobody = self.folder / "no-certificates"
        nobody.mkdir()
        os.environ["SSL_CERT_FILE"] = ""
        os.environ["SSL_CERT_DIR"] = str(nobody)

    @classmethod
    def join(cls) -> "Run":
        return cls(Path(os.environ[FOLDER_VARIABLE]))

    def close(self) -> None:
        """What this process holds open. Whoever joined does this; `end` is the main process's."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def end(self) -> None:
        self.close()
        server = self._known_server()
        if server is not None and os.environ.get("TEST_DATABASE_URL"):
            self._drop_databases(server)
        _remove(self.folder)
        if self._alive is not None:
            self._alive.close()
        os.environ.pop(FOLDER_VARIABLE, None)

    @property
    def token(self) -> str:
        """Part of the name of each database, so that runs can share a server."""
        return self.folder.name.removeprefix(_PREFIX).lower().replace("-", "_")

    def new_folder(self, name: str) -> Path:
        """A folder for servers of one test or one process; they end with the run at the latest."""
        return self.folder / "stacks" / f"{name}-{secrets.token_hex(4)}"

    def connection(self) -> psycopg.Connection:
        """This process's own, as superuser, to create and drop databases with."""
        if self._conn is None or self._conn.closed:
            self._conn = psycopg.connect(self.server().superuser_url, autocommit=True)
        return self._conn

    def server(self) -> Server:
        """The shared server, started and its template migrated by whoever comes first."""
        if self._server is None:
            self._server = self._shared_server()
        return self._server

    def _shared_server(self) -> Server:
        with (self.folder / "server.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = self._known_server()
            if known is not None:
                return known
            made = self._make_server()
            path = self.folder / "server.json"
            path.touch(mode=0o600)
            path.write_bytes(msgspec.json.encode(made))
            return made

    def _known_server(self) -> Server | None:
        path = self.folder / "server.json"
        return msgspec.json.decode(path.read_bytes(), type=Server) if path.exists() else None

    def _make_server(self) -> Server:
        url = os.environ.get("TEST_DATABASE_URL")
        if not url:
            postgres = EmbeddedPostgres(
                self.folder / "postgres",
                durable=False,
                # Databases live for a second: looking after them is wasted, and costs each test.
                options={"autovacuum": "off"},
            )
            postgres.start()
            url = postgres.url()
            postgres.leave_running()
            with psycopg.connect(url) as conn:
                _cheapen_sign_in(conn, (conn.info.user,), conn.info.password)
        _require_superuser(url)
        return build_template(url, f"jewelshot_test_{self.token}_template")

    def _drop_databases(self, server: Server) -> None:
        pattern = f"jewelshot\\_test\\_{self.token}\\_%"
        with psycopg.connect(server.superuser_url, autocommit=True) as conn:
            names = conn.execute(
                "select datname from pg_database where datname like %s", (pattern,)
            ).fetchall()
            for (name,) in names:
                drop_database(conn, name)


def build_template(superuser_url: str, name: str) -> Server:
    """A migrated database, closed to connections so that cloning it always works."""
    password = derived_password(superuser_url)
    with psycopg.connect(superuser_url, autocommit=True) as conn:
        conn.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
        migration_role = apply_platform(
            make_conninfo(superuser_url, dbname=name),
            dict.fromkeys(("postgres", *LOGIN_ROLES), password),
        )
        server = Server(
            superuser_url=superuser_url,
            migration_role=migration_role,
            password=password,
            template=name,
        )
        url = server.url(name, migration_role)
        runner.up(url)
        with cluster_lock(superuser_url):
            names = (migration_role, *LOGIN_ROLES, roles.API_ROLE, roles.WORKER_ROLE)
            _cheapen_sign_in(conn, names, password)
        conn.execute(
            sql.SQL("alter database {} allow_connections false").format(sql.Identifier(name))
        )
    return server


def _cheapen_sign_in(conn: psycopg.Connection, names: Sequence[str], password: str) -> None:
    """Let each role sign in with one round of hashing instead of 4,096, where the server can (16+).

    Tests connect thousands of times, and the rounds are half of what a connection costs them.
    """
    with conn.transaction():
        if conn.info.server_version >= 160000:
            conn.execute("set local scram_iterations = 1")
        for name in names:
            conn.execute(
                sql.SQL("alter role {} login password {}").format(
                    sql.Identifier(name), sql.Literal(password)
                )
            )


def drop_database(conn: psycopg.Connection, name: str) -> None:
    conn.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


def _require_superuser(url: str) -> None:
    with psycopg.connect(url) as conn:
        row = conn.execute(
            "select current_setting('is_superuser'), current_setting('server_version_num')::int"
        ).fetchone()
    assert row is not None
    if row[0] != "on":
        raise RuntimeError("TEST_DATABASE_URL must sign in as a superuser")
    if row[1] < 150000:
        raise RuntimeError("TEST_DATABASE_URL must be PostgreSQL 15 or later")


def _roots() -> list[Path]:
    """Where runs live, the best place first: a clone is hundreds of small files, which memory
    makes five times as fast as a disk. A container's small /dev/shm does not do."""
    memory, disk = Path("/dev/shm"), Path(tempfile.gettempdir())
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > _MEMORY_BYTES_MIN
    return [memory, disk] if has_room else [disk]


def _end_dead_runs() -> None:
    for alive in [path for root in _roots() for path in root.glob(f"{_PREFIX}*/alive")]:
        with contextlib.suppress(OSError), alive.open("r+") as file:
            # Held: that run lives. Not ours: opening it fails.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(alive.parent)


def _remove(folder: Path) -> None:
    """End every server below `folder` and delete it."""
    for directory in _server_folders(folder):
        if directory.name.startswith("valkey"):
            EmbeddedValkey(directory).kill()
        else:
            EmbeddedPostgres(directory).remove()
    shutil.rmtree(folder, ignore_errors=True)


def _server_folders(folder: Path) -> Iterator[Path]:
    yield from (folder / "postgres",)
    for pattern in ("valkey*", "stacks/*/valkey", "stacks/*/postgres"):
        yield from folder.glob(pattern)
