"""Drafts of migrations: what leads from the migrated database to the present text, and back.

Functions, policies, triggers, row security, grants and comments are written; they can be replaced
without touching a row. Tables, types, owners, settings and seeds are listed and left to a person.
"""

import re
from collections.abc import Iterable

import msgspec

from migrations.runner.objects import Difference, Kind, Objects, compare
from migrations.runner.statements import Sources

_WRITTEN = frozenset(
    {
        Kind.FUNCTION,
        Kind.POLICY,
        Kind.TRIGGER,
        Kind.ROW_SECURITY,
        Kind.GRANT,
        Kind.COMMENT,
    }
)
_CREATE = re.compile(r"^create\s+(?:or\s+replace\s+)?function", re.IGNORECASE)
_OF_FUNCTION = re.compile(r"function (app\..*\))(?: to .*)?$")


class Draft(msgspec.Struct, frozen=True):
    """`by_hand` names what no draft writes; while there is any, the two texts are not enough."""

    up: str
    down: str
    by_hand: list[str]


def draft(migrated: Objects, present: Objects, *, old: Sources, new: Sources) -> Draft:
    """`old` are the texts of the migrations, `new` those of schema/."""
    forward, back = compare(migrated, present), compare(present, migrated)
    by_hand = [_in_words(each) for each in forward if each.kind not in _WRITTEN]
    by_hand += [
        f"function {each.name}: what it takes or returns has changed; running code calls it, so"
        " give the changed one a second name"
        for each in forward
        if each.kind is Kind.FUNCTION
        and each.here is not None
        and each.there is not None
        and _signature(each.here) != _signature(each.there)
    ]
    owners = {"up": present, "down": migrated}
    return Draft(
        up=_text(forward, owners["up"], new),
        down=_text(back, owners["down"], old),
        by_hand=[line for line in by_hand if not _is_owner_of_new_or_gone_function(line, forward)],
    )


def _in_words(difference: Difference) -> str:
    what = f"{difference.kind} {difference.name}"
    if difference.here is None:
        return f"{what}: missing in the migrations: {difference.there}"
    if difference.there is None:
        return f"{what}: not in schema/ any more: {difference.here}"
    return f"{what}: {difference.here} in the migrations, {difference.there} in schema/"


def _is_owner_of_new_or_gone_function(line: str, differences: Iterable[Difference]) -> bool:
    """A function's owner comes with the function, where that is made or dropped."""
    moved = {
        each.name for each in differences
        if each.kind is Kind.FUNCTION and None in (each.here, each.there)
    }  # fmt: skip
    return any(line.startswith(f"owner function {name}:") for name in moved)


def _signature(definition: str) -> str:
    """pg_get_functiondef's text up to the language: name, arguments, defaults and result."""
    return definition.partition("\n LANGUAGE ")[0]


def _text(differences: list[Difference], target: Objects, sources: Sources) -> str:
    """The statements that lead from each difference's `here` to its `there`."""
    by_kind: dict[Kind, list[Difference]] = {kind: [] for kind in Kind}
    for each in differences:
        by_kind[each.kind].append(each)
    gone = {each.name for each in by_kind[Kind.FUNCTION] if each.there is None}
    parts = [
        *(f"drop trigger {each.name};" for each in by_kind[Kind.TRIGGER] if each.here is not None),
        *(f"drop policy {each.name};" for each in by_kind[Kind.POLICY] if each.here is not None),
        *(f"drop function {name};" for name in sorted(gone)),
        *_functions(by_kind, target, sources),
        *(_grant(each) for each in by_kind[Kind.GRANT] if _function_of(each.name) not in gone),
        *_row_security(by_kind[Kind.ROW_SECURITY]),
        *_made_again(Kind.POLICY, by_kind, sources),
        *_made_again(Kind.TRIGGER, by_kind, sources),
        *(_comment(each) for each in by_kind[Kind.COMMENT] if not _function_of(each.name)),
    ]
    return "\n\n".join(filter(None, parts))


def _functions(
    by_kind: dict[Kind, list[Difference]], target: Objects, sources: Sources
) -> list[str]:
    """New and changed functions and their comments, each made by its owner."""
    statements: dict[str, list[str]] = {}
    for each in by_kind[Kind.FUNCTION]:
        if each.there is None:
            continue
        text = sources.find("function", each.name) or each.there
        statements.setdefault(target[Kind.OWNER, f"function {each.name}"], []).append(
            _CREATE.sub("create or replace function", text.rstrip().rstrip(";")) + ";"
        )
    for each in by_kind[Kind.COMMENT]:
        name = _function_of(each.name)
        owner = target.get((Kind.OWNER, f"function {name}")) if name else None
        if owner is not None:
            said = sources.find("comment", str(name)) if each.there else None
            statements.setdefault(owner, []).append(f"{said};" if said else _comment(each))
    parts = ["set local check_function_bodies = off;"] if statements else []
    for owner, texts in sorted(statements.items()):
        if owner == target[Kind.OWNER, "schema app"]:
            parts += texts
            continue
        parts.append(f"grant create on schema app to {owner};\nset local role {owner};")
        parts += texts
        parts.append(f"reset role;\nrevoke create on schema app from {owner};")
    return parts


def _made_again(kind: Kind, by_kind: dict[Kind, list[Difference]], sources: Sources) -> list[str]:
    """Policies and triggers in the words of their file; one that is in none is left out."""
    found = [sources.find(kind, each.name) for each in by_kind[kind] if each.there is not None]
    return [f"{text};" for text in found if text]


def _row_security(differences: list[Difference]) -> list[str]:
    parts = []
    for each in differences:
        if each.there is None:
            continue
        on = "enable" if "enabled" in each.there else "disable"
        force = "force" if "forced" in each.there else "no force"
        parts.append(
            f"alter table {each.name} {on} row level security;\n"
            f"alter table {each.name} {force} row level security;"
        )
    return parts


def _grant(difference: Difference) -> str:
    what, _, role = difference.name.rpartition(" to ")
    if difference.there is None:
        return f"revoke {what} from {role};"
    return f"grant {what} to {role}{' ' + difference.there if difference.there else ''};"


def _comment(difference: Difference) -> str:
    text = "null" if difference.there is None else "$comment$" + difference.there + "$comment$"
    return f"comment on {difference.name} is {text};"


def _function_of(name: str) -> str | None:
    """The function that a grant or a comment is about."""
    match = _OF_FUNCTION.search(name)
    return match[1] if match else None
