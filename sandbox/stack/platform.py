"""Applies platform.sql: what Supabase provides, for a server that has no Supabase around it."""

from collections.abc import Mapping
from pathlib import Path

import psycopg

from migrations.runner.cluster import cluster_lock
from migrations.runner.roles import set_password

PLATFORM_SQL = Path(__file__).with_name("platform.sql")

# The roles of the platform that something here signs in as.
LOGIN_ROLES = ("supabase_auth_admin", "supabase_storage_admin")


def find_migration_role(conn: psycopg.Connection) -> str:
    """The non-superuser that migrations run as: `postgres`, unless that is the superuser."""
    row = conn.execute("select rolsuper from pg_roles where rolname = 'postgres'").fetchone()
    return "jewelshot_migrations" if row is not None and row[0] else "postgres"


def apply_platform(superuser_url: str, passwords: Mapping[str, str]) -> str:
    """Make the platform's objects in the database of `superuser_url`; the migration role's name.

    `passwords` holds one for each role that signs in: the migration role under `postgres`, and
    LOGIN_ROLES. Roles are shared by all databases of a server, so one caller at a time.
    """
    statements = PLATFORM_SQL.read_bytes()
    with cluster_lock(superuser_url), psycopg.connect(superuser_url) as conn:
        migration_role = find_migration_role(conn)
        conn.execute("select set_config('platform.migration_role', %s, false)", (migration_role,))
        conn.execute("set client_min_messages = warning")
        conn.execute(statements)
        set_password(conn, migration_role, passwords["postgres"])
        for role in LOGIN_ROLES:
            set_password(conn, role, passwords[role])
    return migration_role
