"""A local PostgreSQL 18 from the wheel: loopback TCP, scram passwords, its own data directory.

The bootstrap superuser is `supabase_admin`, as on the platform, so that `postgres` can be what it
is there: an ordinary role. There is no Unix socket: its path would have to stay under 107 bytes.
"""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote

import psutil

from sandbox.stack import binaries, process
from sandbox.stack.account import Account, can_traverse, server_account
from sandbox.stack.errors import StackError
from sandbox.stack.passwords import Passwords
from sandbox.stack.ports import LOOPBACK, free_port

SUPERUSER = "supabase_admin"

StopMode = Literal["smart", "fast", "immediate"]
_SIGNALS: dict[str, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
_START_SECONDS = 60
_PORT_TAKEN = ("could not bind", "Address already in use", "could not create any TCP")
# What a postmaster logs while children of the one before it, which was killed, are still ending.
_PREDECESSOR = ("pre-existing shared memory block", "lock file")


class EmbeddedPostgres:
    """Owns `data_dir` and everything in it.

    `durable=False` trades safety in a power cut for speed: for tests, never for data to keep.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        *,
        durable: bool = True,
        options: dict[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.passwords = Passwords(self.data_dir / "passwords.json")
        self._wanted_port = port
        self._port = port
        self._options = _server_options(durable=durable) | (options or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        if self._port is None:
            raise StackError("PostgreSQL has not been started")
        return self._port

    @property
    def log(self) -> Path:
        return self.data_dir / "postgres.log"

    def url(self, role: str = SUPERUSER, database: str = "postgres") -> str:
        """A URL for `role` with its generated password, which the caller must have given it."""
        password = quote(self.passwords.get(role), safe="")
        return f"postgresql://{role}:{password}@{LOOPBACK}:{self.port}/{quote(database, safe='')}"

    def start(self) -> None:
        """Start, and return when it takes connections.

        A server left behind in this directory by a process that died is stopped first.
        """
        home, account, programs = self._prepare()
        pgdata = home / "data"
        self._end_leftover(pgdata)
        said = ""
        for _ in range(20):
            self._port = self._wanted_port or self._port or free_port()
            self._configure(pgdata, account)
            failure = self._launch(programs / "postgres", pgdata, account)
            if failure is None:
                return
            said = failure
            if any(text in failure for text in _PORT_TAKEN):
                if self._wanted_port is None and self._process is None:
                    self._port = None
            elif not any(text in failure for text in _PREDECESSOR):
                break
            time.sleep(0.2)
        raise StackError(f"PostgreSQL did not start; the end of {self.log}:\n{said}")

    def stop(self, mode: StopMode = "fast") -> None:
        self._end(_SIGNALS[mode])

    def kill(self) -> None:
        """End it as a crash would; the next start recovers."""
        self._end(signal.SIGKILL)

    def leave_running(self) -> None:
        """Let the server outlive this process; another object ends it by its directory."""
        if self._process is not None:
            self._process.returncode = 0  # or Popen would complain that it still runs
            self._process = None

    def restart(self, mode: StopMode = "fast") -> None:
        """Same port, same data. `immediate` is a crash that the server knows of."""
        port = self.port
        self.stop(mode)
        self._port = port
        self.start()

    def is_running(self) -> bool:
        return self._find(self._home() / "data") is not None

    def attach(self) -> bool:
        """Reads the port of a server that another process started; False if none runs."""
        pgdata = self._home() / "data"
        if self._find(pgdata) is None:
            return False
        # The fourth line is the port (miscadmin.h).
        self._port = int((pgdata / "postmaster.pid").read_text().splitlines()[3])
        return True

    def remove(self) -> None:
        """Stop and delete everything, wherever it had to be put."""
        self.stop("immediate")
        home = self._home()
        if home != self.data_dir:
            shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(self.data_dir, ignore_errors=True)

    # --- places ------------------------------------------------------------------------------

    def _home(self) -> Path:
        """Where the data are: `data_dir`, unless the server's account cannot get there."""
        pointer = self.data_dir / "moved-to"
        return Path(pointer.read_text().strip()) if pointer.exists() else self.data_dir

    def _prepare(self) -> tuple[Path, Account | None, Path]:
        if not self.data_dir.exists():
            self.data_dir.mkdir(parents=True)
            self.data_dir.chmod(0o711)  # ours; the account that runs the server passes through
        home = self._home()
        account = server_account(home / "data")
        if account is not None and not can_traverse(account, home):
            home = self._move_out(home)
        programs = binaries.postgres_programs()
        if account is not None and not binaries.is_usable(programs, account):
            if not can_traverse(account, home):
                raise StackError(
                    f"PostgreSQL runs as {account.name!r} when started by root, and that account "
                    f"can reach neither {programs} nor {home}; run as an ordinary user"
                )
            programs = binaries.copy_postgres(home / "programs")
        if not (home / "data").exists():
            self._init(home, account, programs)
        return home, account, programs

    def _move_out(self, home: Path) -> Path:
        """A home below the system's temporary folder that survives reboots.

        For root with the state under a private folder such as /root: opening that folder to
        everyone is not ours to do. The name is random and noted, so a fresh checkout at the same
        path does not find another one's data.
        """
        if (home / "data").exists():
            raise StackError(f"the account that owns {home / 'data'} cannot reach it any more")
        parent = Path("/var/tmp")  # noqa: S108  the folder made below is new, random and ours
        if not parent.is_dir():
            parent = Path(tempfile.gettempdir())
        _sweep_orphans(parent)
        moved = Path(tempfile.mkdtemp(prefix="jewelshot-", dir=parent))
        moved.chmod(0o711)
        (moved / "belongs-to").write_text(f"{self.data_dir}\n")
        (self.data_dir / "moved-to").write_text(f"{moved}\n")
        return moved

    def _init(self, home: Path, account: Account | None, programs: Path) -> None:
        """Make the data directory under another name first: an interrupted initdb leaves none."""
        draft = home / f"new-{secrets.token_hex(4)}"
        password_file = home / f"{draft.name}.password"
        for leftover in home.glob("new-*"):
            _delete(leftover)
        draft.mkdir(mode=0o700)
        password_file.touch(mode=0o600)
        if account is not None:
            os.chown(draft, account.uid, account.gid)
            os.chown(password_file, account.uid, account.gid)
        password_file.write_text(self.passwords.get(SUPERUSER))
        arguments = ["-U", SUPERUSER, "--auth=scram-sha-256", f"--pwfile={password_file}"]
        arguments += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin"]
        arguments += ["--builtin-locale=C.UTF-8", "--no-sync", "--no-instructions"]
        try:
            done = subprocess.run(
                [programs / "initdb", "-D", draft, *arguments],
                cwd=home,
                env=_environment(),
                capture_output=True,
                text=True,
                check=False,
                **_as(account),
            )
            if done.returncode != 0:
                raise StackError(f"initdb failed:\n{done.stdout}\n{done.stderr}")
            with (draft / "postgresql.conf").open("a") as file:
                file.write("include 'jewelshot.conf'\n")
            draft.rename(home / "data")
        finally:
            password_file.unlink()
            _delete(draft)

    def _configure(self, pgdata: Path, account: Account | None) -> None:
        options = {"port": str(self.port), **self._options}
        config = pgdata / "jewelshot.conf"
        config.write_text("".join(f"{name} = '{value}'\n" for name, value in options.items()))
        if account is not None:
            os.chown(config, account.uid, account.gid)

    # --- the process -------------------------------------------------------------------------

    def _launch(self, program: Path, pgdata: Path, account: Account | None) -> str | None:
        """None when the server takes connections, otherwise the end of its log."""
        start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-D", pgdata],
                cwd=pgdata,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we stop it in order
                **_as(account),
            )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if _is_ready(pgdata / "postmaster.pid", self._process.pid):
                return None
            time.sleep(0.01)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=30)
        self._process = None
        with self.log.open("rb") as log:
            log.seek(start)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-15:])

    def _find(self, pgdata: Path) -> psutil.Process | None:
        return process.find_server(pgdata / "postmaster.pid", program="postgres", directory=pgdata)

    def _end_leftover(self, pgdata: Path) -> None:
        self._end(signal.SIGINT)
        pid_file = pgdata / "postmaster.pid"
        if not pid_file.exists():
            return
        # The server itself clears a pid file whose process is gone, and waits for orphans of a
        # killed one. Only when the number belongs to another program by now would it never start.
        relatives = [
            each
            for each in psutil.process_iter()
            if process.runs_in(each, program="postgres", directory=pgdata)
        ]
        if not relatives:
            pid_file.unlink()

    def _end(self, *signals: signal.Signals) -> None:
        found = self._find(self._home() / "data")
        if found is not None:
            process.end(found, *signals, signal.SIGQUIT, patience_seconds=20)
        if self._process is not None:
            self._process.wait(timeout=30)
            self._process = None


def _sweep_orphans(parent: Path) -> None:
    """Delete homes whose data directory was temporary and is gone, deleted without `remove`."""
    temporary = {Path(tempfile.gettempdir()).resolve(), Path("/dev/shm")}  # noqa: S108  looked for, not used
    for note in parent.glob("jewelshot-*/belongs-to"):
        if note.parent.stat().st_uid != os.geteuid():
            continue
        owner = Path(note.read_text().strip())
        if temporary.isdisjoint(owner.parents) or owner.exists():
            continue
        running = process.find_server(
            note.parent / "data" / "postmaster.pid",
            program="postgres",
            directory=note.parent / "data",
        )
        if running is not None:
            process.end(running, signal.SIGQUIT, patience_seconds=10)
        shutil.rmtree(note.parent, ignore_errors=True)


def _is_ready(pid_file: Path, pid: int) -> bool:
    """The eighth line of postmaster.pid is the status, the first the process (miscadmin.h)."""
    try:
        lines = pid_file.read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _server_options(*, durable: bool) -> dict[str, str]:
    options = {
        "listen_addresses": LOOPBACK,
        "unix_socket_directories": "",
        "max_connections": "200",
        "shared_buffers": "128MB",
        "password_encryption": "scram-sha-256",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_min_messages": "warning",
        "jit": "off",
    }
    if not durable:
        options |= {
            # A commit still survives a killed server, only not a power cut; synchronous_commit
            # stays on, for without it the last 0.6 s are lost in a kill.
            "fsync": "off",
            "full_page_writes": "off",
            "wal_level": "minimal",
            "max_wal_senders": "0",
            "max_wal_size": "1GB",
            "checkpoint_timeout": "1h",
        }
    return options


def _environment() -> dict[str, str]:
    """Ours without PG* variables, which would redirect the server's programs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C"}


def _as(account: Account | None) -> dict[str, Any]:
    return {} if account is None else account.process_options()


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
