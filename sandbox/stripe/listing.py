"""Lists as Stripe's: newest first, a page at a time, cursors that are ids."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from sandbox.stripe.common import Params
from sandbox.stripe.engine import Sandbox, public
from sandbox.stripe.errors import malformed, missing
from sandbox.stripe.store import Obj

LIMIT_DEFAULT = 10
LIMIT_MAX = 100

Keep = Callable[[Obj], bool]


def list_of(items: list[Obj], url: str) -> Obj:
    """A list object with everything in it."""
    return {
        "object": "list",
        "data": [public(item) for item in items],
        "has_more": False,
        "url": url,
    }


def list_kind(
    box: Sandbox,
    kind: str,
    params: Params,
    url: str,
    *,
    by: tuple[str, ...] = (),
    keep: Keep | None = None,
) -> Obj:
    """`by` are the parameters that filter on the field of the same name."""
    wanted = {name: params[name] for name in by if name in params}
    created = params.get("created", {})
    oldest = _oldest(created)

    def kept(obj: Obj) -> bool:
        return (
            not obj.get("deleted")
            and all(obj.get(name) == value for name, value in wanted.items())
            and _in_range(obj, created)
            and (keep is None or keep(obj))
        )

    indexed = next((name for name in wanted if box.store.is_indexed(kind, name)), None)
    index = None if indexed is None else (indexed, wanted[indexed])
    limit, cursor, step = _cursor(box, kind, params)
    stream = _candidates(box, kind, index, cursor, step)
    if step < 0 and oldest is not None:
        # Creation is in order of time, so nothing beyond can match.
        stream = itertools.takewhile(lambda obj: obj["created"] >= oldest, stream)
    found = list(itertools.islice(filter(kept, stream), limit + 1))
    page = found[:limit]
    if step > 0:
        page.reverse()
    return {
        "object": "list",
        "data": [public(obj) for obj in page],
        "has_more": len(found) > limit,
        "url": url,
    }


def _cursor(box: Sandbox, kind: str, params: Params) -> tuple[int, str | None, int]:
    limit = params.get("limit", LIMIT_DEFAULT)
    if not 1 <= limit <= LIMIT_MAX:
        raise malformed(
            f"This value must be between 1 and {LIMIT_MAX}.",
            code="parameter_invalid_integer",
            param="limit",
        )
    if "starting_after" in params and "ending_before" in params:
        raise malformed(
            "You may only specify one of these parameters: starting_after, ending_before."
        )
    name = "ending_before" if "ending_before" in params else "starting_after"
    cursor = params.get(name)
    if cursor is not None and box.store.find(kind, cursor) is None:
        raise missing(kind, cursor, param=name, status=400)
    return limit, cursor, 1 if name == "ending_before" else -1


def _candidates(
    box: Sandbox, kind: str, index: tuple[str, str] | None, cursor: str | None, step: int
) -> Iterator[Obj]:
    if index is None:
        return box.store.walk(kind, cursor, step)
    found = box.store.where(kind, *index)
    if step < 0:
        found.reverse()
    if cursor is None:
        return iter(found)
    after = itertools.dropwhile(lambda obj: obj["id"] != cursor, found)
    return itertools.islice(after, 1, None)


def _oldest(created: Any) -> int | None:
    if isinstance(created, int):
        return created
    bounds = [created[name] for name in ("gte", "gt") if name in created]
    return max(bounds) if bounds else None


def _in_range(obj: Obj, created: Any) -> bool:
    at = obj.get("created", 0)
    if isinstance(created, int):
        return bool(at == created)
    return bool(
        at >= created.get("gte", at)
        and at > created.get("gt", at - 1)
        and at <= created.get("lte", at)
        and at < created.get("lt", at + 1)
    )
