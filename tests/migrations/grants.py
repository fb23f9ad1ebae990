"""Who may do what: the whole list. What is not named here must not be possible.

One file a noun, grants/<noun>.txt beside this module. Whoever makes a table or a function, or
grants anything, changes it in the same commit; that is the point of it. Owners are not listed,
they may do everything with what is theirs. Sections of a file:

[tables]          table | role | verbs, columns in parentheses where not all
[definer ledger]  function | callers; run with the rights of jewelshot_ledger, the only way to
                  money, state and outbox; `-` is nobody but its owner
[definer owner]   function | callers; run with the rights of the migrating role, which sees every
                  row: they are few
[invoker]         function | callers; run with the rights of whoever calls them
"""

import functools
from pathlib import Path

# Everyone who could sign in or be acted as, but for the owner of the tables and superusers.
ROLES = (
    "anon",
    "authenticated",
    "service_role",
    "authenticator",
    "jewelshot_user",
    "jewelshot_api",
    "jewelshot_admin",
    "jewelshot_worker",
    "jewelshot_ledger",
)

# Tables of which every user may see every row.
PUBLIC_TABLES = frozenset({"operations", "packs", "payment_terms"})

# Whom each of our roles may act as.
MEMBERSHIPS = {
    "jewelshot_api": {"jewelshot_user", "jewelshot_admin"},
    "jewelshot_worker": set[str](),
    "jewelshot_user": set[str](),
    "jewelshot_admin": set[str](),
    "jewelshot_ledger": set[str](),
}

TABLES = "tables"
DEFINER_LEDGER = "definer ledger"
DEFINER_OWNER = "definer owner"
INVOKER = "invoker"
_SECTIONS = (TABLES, DEFINER_LEDGER, DEFINER_OWNER, INVOKER)


@functools.cache
def _declared() -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {section: [] for section in _SECTIONS}
    for path in sorted((Path(__file__).parent / "grants").glob("*.txt")):
        section = ""
        for line in filter(None, path.read_text().splitlines()):
            if line.startswith("["):
                section = line.strip("[]")
                continue
            found[section].append([cell.strip() for cell in line.split("|")])
    return found


def lines(section: str) -> list[list[str]]:
    """The cells of each line of one section, of all nouns."""
    return _declared()[section]


def table_grants() -> set[str]:
    """`table role verb` or `table role verb(columns)`, one for each grant."""
    return {
        f"{table} {role} {verb.strip()}"
        for table, role, verbs in lines(TABLES)
        for verb in verbs.split(", ")
    }


def function_grants() -> set[str]:
    """`function role`, one for each grant, and `function -` for one that nobody is given."""
    return {
        f"{function} {role}"
        for section in (DEFINER_LEDGER, DEFINER_OWNER, INVOKER)
        for function, roles in lines(section)
        for role in roles.split()
    }
