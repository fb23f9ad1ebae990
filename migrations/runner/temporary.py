"""The second wall against types in pg_temp: only the owner makes temporary objects.

The first is `search_path = pg_catalog, pg_temp` in every function. This one belongs to the database
itself, so neither a clone of it nor a restore brings it along: whoever makes a database says it
again.
"""

import psycopg
from psycopg import sql


def revoke(conn: psycopg.Connection) -> bool:
    """Take TEMPORARY from PUBLIC; False where the platform does not let `conn` do so."""
    database = sql.Identifier(conn.info.dbname)
    try:
        with conn.transaction():
            conn.execute(sql.SQL("revoke temporary on database {} from public").format(database))
    except psycopg.errors.InsufficientPrivilege:
        return False
    return is_revoked(conn)


def is_revoked(conn: psycopg.Connection) -> bool:
    row = conn.execute(
        "select has_database_privilege('public', current_database(), 'temporary')"
    ).fetchone()
    assert row is not None
    return not row[0]
