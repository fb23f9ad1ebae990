"""All objects, by kind in the order of their creation; optionally kept in a SQLite file.

An object is the dict that the API answers with. What the sandbox records beyond it is under
the key `PRIVATE`, which never leaves the process. Change an object, then `save` it.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

Obj: TypeAlias = dict[str, Any]

PRIVATE = "_"
STATE_FILE = "stripe.sqlite3"

# Fields by which objects are listed; each look-up then costs what it finds.
_INDEXED: dict[str, tuple[str, ...]] = {
    "charge": ("payment_intent", "customer"),
    "credit_note": ("invoice", "customer"),
    "checkout.session": ("payment_intent", "customer", "client_reference_id"),
    "dispute": ("payment_intent", "charge"),
    "event": ("type",),
    "invoice": ("customer",),
    "payment_intent": ("customer",),
    "price": ("product", "lookup_key"),
    "promotion_code": ("code",),
    "radar.early_fraud_warning": ("payment_intent", "charge"),
    "refund": ("payment_intent", "charge"),
    "sandbox.delivery": ("event",),
}


class Store:
    def __init__(self, state_dir: Path | None) -> None:
        self._objects: dict[str, dict[str, Obj]] = defaultdict(dict)
        self._order: dict[str, list[str]] = defaultdict(list)
        self._place: dict[tuple[str, str], int] = {}
        self._index: dict[tuple[str, str, str], dict[str, None]] = defaultdict(dict)
        self._indexed_as: dict[tuple[str, str], dict[str, str]] = {}
        self._dirty: dict[tuple[str, str], None] = {}
        self._file = None if state_dir is None else _open(state_dir)
        if self._file is not None:
            rows = self._file.execute("select kind, body from objects order by rowid")
            for kind, body in rows.fetchall():
                self._put(kind, msgspec.json.decode(body))

    def save(self, obj: Obj, kind: str | None = None) -> Obj:
        """New or changed. `kind` is for what is not an object of the API."""
        kind = kind or obj["object"]
        self._put(kind, obj)
        if self._file is not None:
            self._dirty[kind, obj["id"]] = None
        return obj

    def find(self, kind: str, id_: str) -> Obj | None:
        return self._objects[kind].get(id_)

    def remove(self, kind: str, id_: str) -> None:
        """Deletes it for good; for the sandbox's own records only."""
        del self._objects[kind][id_]
        if self._file is not None:
            self._dirty[kind, id_] = None

    def count(self, kind: str) -> int:
        return len(self._objects[kind])

    def all(self, kind: str) -> list[Obj]:
        """Oldest first."""
        return list(self._objects[kind].values())

    def where(self, kind: str, field: str, value: str) -> list[Obj]:
        """By an indexed field, oldest first."""
        ids = self._index.get((kind, field, value), {})
        objects = self._objects[kind]
        return [objects[id_] for id_ in sorted(ids, key=lambda id_: self._place[kind, id_])]

    def is_indexed(self, kind: str, field: str) -> bool:
        return field in _INDEXED.get(kind, ())

    def walk(self, kind: str, start: str | None, step: int) -> Iterator[Obj]:
        """From the object after `start` on, newer (`step` 1) or older (-1); None: from the end."""
        order = self._order[kind]
        if start is not None:
            place = self._place[kind, start] + step
        else:
            place = len(order) - 1 if step < 0 else 0
        objects = self._objects[kind]
        while 0 <= place < len(order):
            obj = objects.get(order[place])
            if obj is not None:
                yield obj
            place += step

    def flush(self) -> None:
        """Writes what changed; one transaction."""
        if self._file is None or not self._dirty:
            return
        with self._file:
            for kind, id_ in self._dirty:
                obj = self._objects[kind].get(id_)
                if obj is None:
                    self._file.execute("delete from objects where kind = ? and id = ?", (kind, id_))
                else:
                    self._file.execute(
                        "insert into objects (kind, id, body) values (?, ?, ?) "
                        "on conflict (kind, id) do update set body = excluded.body",
                        (kind, id_, msgspec.json.encode(obj)),
                    )
        self._dirty.clear()

    def clear(self) -> None:
        for table in (self._objects, self._order, self._place, self._index, self._indexed_as):
            table.clear()
        self._dirty.clear()
        if self._file is not None:
            with self._file:
                self._file.execute("delete from objects")

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _put(self, kind: str, obj: Obj) -> None:
        id_ = obj["id"]
        if (kind, id_) not in self._place:
            self._place[kind, id_] = len(self._order[kind])
            self._order[kind].append(id_)
        self._objects[kind][id_] = obj
        before = self._indexed_as.setdefault((kind, id_), {})
        for field in _INDEXED.get(kind, ()):
            value = obj.get(field)
            if before.get(field) == value:
                continue
            if field in before:
                del self._index[kind, field, before.pop(field)][id_]
            if isinstance(value, str):
                self._index[kind, field, value][id_] = None
                before[field] = value


def _open(state_dir: Path) -> sqlite3.Connection:
    state_dir.mkdir(parents=True, exist_ok=True)
    file = sqlite3.connect(state_dir / STATE_FILE, check_same_thread=False)
    file.execute("pragma journal_mode = wal")
    file.execute("pragma synchronous = normal")
    file.execute(
        "create table if not exists objects "
        "(kind text not null, id text not null, body blob not null, unique (kind, id))"
    )
    return file
