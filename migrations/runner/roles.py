"""LOGIN and passwords of our roles. Never in a migration: those are stored, as text, in a table."""

from collections.abc import Mapping

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from migrations.runner import temporary
from migrations.runner.cluster import cluster_lock
from migrations.runner.errors import MigrationError

API_ROLE = "jewelshot_api"
WORKER_ROLE = "jewelshot_worker"


def set_password(conn: psycopg.Connection, role: str, password: str) -> None:
    """Let `role` sign in with `password`. Only the scram verifier is sent, so no log has it."""
    verifier = conn.pgconn.encrypt_password(
        password.encode(), role.encode(), b"scram-sha-256"
    ).decode()
    conn.execute(
        sql.SQL("alter role {} login password {}").format(
            sql.Identifier(role), sql.Literal(verifier)
        )
    )


def set_passwords(url: str, passwords: Mapping[str, str]) -> None:
    """Set LOGIN and the password of each role; all or none."""
    with cluster_lock(url), psycopg.connect(url, prepare_threshold=None) as conn:
        for role, password in passwords.items():
            try:
                set_password(conn, role, password)
            except psycopg.errors.UndefinedObject:
                raise MigrationError(f"role {role} does not exist: run `up` first") from None
            except psycopg.errors.InsufficientPrivilege:
                raise MigrationError(
                    f"{conn.info.user} may not change role {role}, which another role made"
                ) from None
        temporary.revoke(conn)


def passwords_from_urls(urls: Mapping[str, str]) -> dict[str, str]:
    """Role → password, from connection URLs by the name of their variable.

    A pooler's user name is `<role>.<project>`; only our two roles are accepted, so that a wrong
    URL can never change the password of `postgres`.
    """
    passwords: dict[str, str] = {}
    for variable, url in urls.items():
        try:
            parts = conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            raise MigrationError(f"{variable} is not a PostgreSQL URL") from None
        role = str(parts.get("user") or "").split(".")[0]
        password = parts.get("password")
        if role not in {API_ROLE, WORKER_ROLE}:
            raise MigrationError(
                f"{variable} signs in as {role or 'nobody'}, not as {API_ROLE} or {WORKER_ROLE}"
            )
        if not password:
            raise MigrationError(f"{variable} has no password for {role}")
        if passwords.setdefault(role, str(password)) != password:
            raise MigrationError(f"two URLs give {role} different passwords")
    return passwords
