"""The two servers together, migrated and with every role able to sign in: what demo and run use."""

import fcntl
import os
import shutil
from pathlib import Path
from typing import IO, Self

from migrations.runner import commands as runner
from migrations.runner.files import MIGRATIONS
from migrations.runner.roles import API_ROLE, WORKER_ROLE, set_passwords
from sandbox.stack.errors import StackError
from sandbox.stack.platform import LOGIN_ROLES, apply_platform
from sandbox.stack.postgres import EmbeddedPostgres
from sandbox.stack.valkey import EmbeddedValkey

DEFAULT_STATE_DIR = Path(__file__).resolve().parents[2] / ".state"


class LocalStack:
    """PostgreSQL and Valkey in `state_dir`, which one stack at a time may use."""

    def __init__(
        self,
        state_dir: Path = DEFAULT_STATE_DIR,
        *,
        durable: bool = True,
        postgres_port: int | None = None,
        valkey_port: int | None = None,
    ) -> None:
        self.state_dir = state_dir.resolve()
        self.postgres = EmbeddedPostgres(
            self.state_dir / "postgres", postgres_port, durable=durable
        )
        self.valkey = EmbeddedValkey(self.state_dir / "valkey", valkey_port, durable=durable)
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start both, make the platform's objects, migrate, set passwords. Repeatable."""
        self._take_lock()
        try:
            self.valkey.start()
            self.postgres.start()
            self._prepare_database()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self.postgres.stop()
        self.valkey.stop()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def remove(self) -> None:
        """Stop, and delete the data. For temporary stacks; deleting the folder is not enough."""
        self.stop()
        self.postgres.remove()
        shutil.rmtree(self.state_dir, ignore_errors=True)

    def environ(self) -> dict[str, str]:
        """The variables of core.settings that these two servers answer."""
        return {
            "DATABASE_URL": self.postgres.url(API_ROLE),
            "WORKER_DATABASE_URL": self.postgres.url(WORKER_ROLE),
            "REDIS_URL": self.valkey.url(),
        }

    @property
    def migration_database_url(self) -> str:
        """For migrations and proofs; nothing that serves is given it."""
        return self.postgres.url("postgres")

    @property
    def auth_database_url(self) -> str:
        """For the stand-in of Supabase Auth only: the owner of schema auth."""
        return self.postgres.url("supabase_auth_admin")

    @property
    def storage_database_url(self) -> str:
        """For the stand-in of Supabase Storage only: the owner of schema storage."""
        return self.postgres.url("supabase_storage_admin")

    def _prepare_database(self) -> None:
        passwords = self.postgres.passwords
        apply_platform(
            self.postgres.url(), {role: passwords.get(role) for role in ("postgres", *LOGIN_ROLES)}
        )
        url = self.migration_database_url
        runner.up(url, MIGRATIONS)
        set_passwords(url, {role: passwords.get(role) for role in (API_ROLE, WORKER_ROLE)})

    def _take_lock(self) -> None:
        if not self.state_dir.exists():
            self.state_dir.mkdir(parents=True)
            self.state_dir.chmod(0o711)  # under root the server's account passes through
        lock = (self.state_dir / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise StackError(
                f"{self.state_dir} is in use by another stack (process {owner}); stop that one, "
                "or give this one a state directory of its own"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock
