"""Wraps the keys of people that were written without a pepper: `python -m scripts.person_keys`.

Such a key tells anybody with a list of addresses who was here. What is kept instead recognises the
same people, and no address is needed to make it. Needs MIGRATION_DATABASE_URL and the services'
PERSON_KEY_PEPPER; repeatable, in batches.
"""

import os
import sys

import psycopg
from psycopg import sql

from core.people.keys import PersonKeys, open_person_keys
from core.settings import SettingsError, load_settings

BATCH = 500
_TABLES = ("signup_grants", "code_redemptions")
_PLAIN = "^[0-9a-f]{64}$"


def wrap(url: str, keys: PersonKeys) -> int:
    """How many keys were wrapped."""
    wrapped = 0
    with psycopg.connect(url, autocommit=True) as conn:
        for name in _TABLES:
            table = sql.Identifier("app", name)
            find = sql.SQL("select distinct person_key from {} where person_key ~ %s limit %s")
            write = sql.SQL("update {} set person_key = %s where person_key = %s").format(table)
            while found := conn.execute(find.format(table), (_PLAIN, BATCH)).fetchall():
                with conn.transaction(), conn.cursor() as cursor:
                    cursor.executemany(write, [(keys.wrapped(plain), plain) for (plain,) in found])
                wrapped += len(found)
    return wrapped


def main() -> int:
    url = os.environ.get("MIGRATION_DATABASE_URL")
    if not url:
        print("person_keys: MIGRATION_DATABASE_URL is not set", file=sys.stderr)
        return 1
    try:
        keys = open_person_keys(load_settings())
    except SettingsError as error:
        print(f"person_keys: {error}", file=sys.stderr)
        return 1
    print(f"{wrap(url, keys)} keys wrapped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
