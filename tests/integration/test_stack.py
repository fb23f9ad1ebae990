"""The local servers: restarts, crashes, odd places, two at once."""

import os
import shutil
import stat
from pathlib import Path

import psycopg
import pytest
import redis

from sandbox.stack import EmbeddedPostgres, EmbeddedValkey, LocalStack, StackError
from sandbox.stack.platform import LOGIN_ROLES, apply_platform
from tests.harness.database import TestDatabase
from tests.harness.run import Run

pytestmark = pytest.mark.slow


def _one(url: str, query: str) -> object:
    with psycopg.connect(url, autocommit=True) as conn:
        cursor = conn.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def test_postgres_keeps_data_through_restart_crash_and_a_stale_pid_file(test_run: Run) -> None:
    folder = test_run.new_folder("with space " + "x" * 100) / "postgres"
    server = EmbeddedPostgres(folder, durable=False)
    server.start()
    port = server.port
    _one(server.url(), "create table kept as select 7 as number")
    server.restart("immediate")
    assert server.port == port
    server.kill()
    assert not server.is_running()
    server.start()

    # Left behind by a process that died: another object ends it and takes over.
    second = EmbeddedPostgres(folder, durable=False)
    second.start()
    assert _one(second.url(), "select number from kept") == 7
    second.stop()
    server.stop()  # it is gone already; this only takes note

    # The pid was given to a stranger, which is us, while nothing ran.
    home = second._home()
    (home / "data" / "postmaster.pid").write_text(
        f"{os.getpid()}\n{home / 'data'}\n1700000000\n{port}\n\n127.0.0.1\n"
    )
    second.start()
    assert _one(second.url(), "select number from kept") == 7
    second.remove()
    assert not folder.exists()


def test_passwords_are_for_their_owner_only(own_stack: LocalStack) -> None:
    for path in own_stack.state_dir.glob("*/passwords.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((own_stack.valkey.directory / "valkey.conf").stat().st_mode) == 0o600
    url = own_stack.postgres.url("jewelshot_api").replace(":" + _password(own_stack), ":wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url)


def _password(stack: LocalStack) -> str:
    return stack.postgres.passwords.get("jewelshot_api")


def test_a_state_directory_serves_one_stack(own_stack: LocalStack) -> None:
    with pytest.raises(StackError, match=f"in use by another stack .process {os.getpid()}"):
        LocalStack(own_stack.state_dir).start()
    assert own_stack.postgres.is_running()


def test_a_taken_port_is_said(test_run: Run, own_stack: LocalStack) -> None:
    folder = test_run.new_folder("port") / "valkey"
    taken = EmbeddedValkey(folder, own_stack.postgres.port, durable=False)
    with pytest.raises(StackError, match="did not start"):
        taken.start()
    assert not taken.is_running()


def test_valkey_keeps_data_only_if_durable(test_run: Run) -> None:
    for durable in (True, False):
        folder = test_run.new_folder("keep") / "valkey"
        with EmbeddedValkey(folder, durable=durable) as server:
            with redis.Redis.from_url(server.url()) as client:
                client.set("kept", 1)
            server.restart()
            with redis.Redis.from_url(server.url()) as client:
                assert client.exists("kept") == durable
                assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_the_platform_is_made_once_and_again(empty_database: TestDatabase) -> None:
    passwords = dict.fromkeys(("postgres", *LOGIN_ROLES), empty_database.server.password)
    for _ in range(2):
        role = apply_platform(empty_database.superuser_url, passwords)
    assert role == empty_database.server.migration_role
    for table in ("auth.users", "auth.mfa_factors", "auth.flow_state", "auth.one_time_tokens"):
        assert _one(empty_database.url("supabase_auth_admin"), f"select count(*) from {table}") == 0
    storage = empty_database.url("supabase_storage_admin")
    _one(storage, "insert into storage.buckets (id, name) values ('b', 'b')")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="Use the Storage API"):
        _one(storage, "delete from storage.buckets")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another account")
def test_as_root_a_private_folder_stays_private(test_run: Run) -> None:
    private = test_run.new_folder("private")
    private.mkdir(parents=True, mode=0o700)
    folder = private / "postgres"
    server = EmbeddedPostgres(folder, durable=False)
    server.start()
    moved = Path((folder / "moved-to").read_text().strip())
    assert _one(server.url(), "select 1") == 1
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    server.stop()

    # Whoever deletes a temporary folder by hand leaves the data; the next one to move sweeps.
    shutil.rmtree(private)
    private.mkdir(mode=0o700)
    again = EmbeddedPostgres(private / "other", durable=False)
    again.start()
    assert not moved.exists()
    again.remove()
