"""Listings as the caller sees them: one level below a folder, or all names below a prefix."""

import base64
from typing import Any

from psycopg import sql

from core.db import Connection, fetch_all
from sandbox.supabase.storage.access import Storage
from sandbox.supabase.storage.errors import invalid_request
from sandbox.supabase.storage.http import (
    Reply,
    StorageRequest,
    integer,
    json_reply,
    require_text,
)
from sandbox.supabase.storage.times import iso_milliseconds

Row = dict[str, Any]

_COLUMNS = ("name", "updated_at", "created_at", "last_accessed_at")
_CURSOR_PREFIX = "l:"

# Folders are the first segments that something follows; they have a name and nothing else.
_ENTRIES = """
with visible as (
  select substr(name, length(%(folder)s) + 1) as rest, id, updated_at, created_at,
         last_accessed_at, metadata
    from storage.objects
   where bucket_id = %(bucket)s
     and name ilike %(pattern)s
), entries as (
  select split_part(rest, '/', 1) as name, null::uuid as id, null::timestamptz as updated_at,
         null::timestamptz as created_at, null::timestamptz as last_accessed_at,
         null::jsonb as metadata
    from visible
   where position('/' in rest) > 0
   group by 1
   union all
  select rest, id, updated_at, created_at, last_accessed_at, metadata
    from visible
   where position('/' in rest) = 0
)
select name, id, updated_at, created_at, last_accessed_at, metadata from entries
"""


def _escape_like(value: str) -> str:
    return value.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")


def _order(body: dict[str, Any]) -> tuple[str, str]:
    """(column, direction) of `sortBy`. Raises: StorageError."""
    sort = body.get("sortBy") or {}
    if not isinstance(sort, dict):
        raise invalid_request("body/sortBy must be object")
    column, direction = sort.get("column") or "name", sort.get("order") or "asc"
    if column not in _COLUMNS:
        raise invalid_request("body/sortBy/column must be equal to one of the allowed values")
    if direction not in {"asc", "desc"}:
        raise invalid_request("body/sortBy/order must be equal to one of the allowed values")
    return column, direction


def _json(row: Row) -> dict[str, Any]:
    return {
        name: iso_milliseconds(value) if name.endswith("_at") and value else value
        for name, value in row.items()
    }


async def list_folder(storage: Storage, request: StorageRequest, bucket: str) -> Reply:
    caller = storage.caller(request)
    body = await request.json()
    folder = require_text(body, "prefix")
    if folder and not folder.endswith("/"):
        folder += "/"
    column, direction = _order(body)
    by_name = column == "name"
    order = sql.SQL("order by {} {} limit %(limit)s offset %(offset)s").format(
        sql.SQL('name collate "C"' if by_name else f"(id is not null), {column}"),
        sql.SQL(direction),
    )
    params = {
        "bucket": bucket,
        "folder": folder,
        "pattern": _escape_like(folder + (body.get("search") or "")) + "%",
        "limit": integer(body, "limit", default=100),
        "offset": integer(body, "offset", default=0, least=0),
    }

    async def work(conn: Connection) -> list[Row]:
        return await fetch_all(conn, sql.SQL(_ENTRIES) + order, params)

    rows = await storage.as_caller(caller, request, "storage.object.list", work)
    return json_reply([_json(row) for row in rows])


# Folder keys sort among the names, so that a cursor can stand on either.
_BELOW = """
with visible as (
  select name, id, updated_at, created_at, last_accessed_at, metadata,
         case when %(delimit)s then position('/' in substr(name, length(%(prefix)s) + 1))
              else 0 end as cut
    from storage.objects
   where bucket_id = %(bucket)s
     and starts_with(name, %(prefix)s)
), entries as (
  select left(name, length(%(prefix)s) + cut) as name, null::uuid as id,
         null::timestamptz as updated_at, null::timestamptz as created_at,
         null::timestamptz as last_accessed_at, null::jsonb as metadata
    from visible
   where cut > 0
   group by 1
   union all
  select name, id, updated_at, created_at, last_accessed_at, metadata
    from visible
   where cut = 0
)
select name, id, updated_at, created_at, last_accessed_at, metadata from entries
"""


def _cursor_name(body: dict[str, Any]) -> str | None:
    cursor = body.get("cursor")
    if not cursor:
        return None
    try:
        name = base64.b64decode(str(cursor), validate=True).decode()
    except ValueError as error:
        raise invalid_request("Invalid cursor") from error
    return name.removeprefix(_CURSOR_PREFIX)


def _below_json(row: Row, folder_length: int | None) -> dict[str, Any]:
    """With a delimiter an entry also has its `key` in the folder; the orders are the server's."""
    shown = _json(row)
    if folder_length is None:
        first = ("id", "name", "metadata")
        return {name: shown[name] for name in first} | shown
    return {"key": row["name"][folder_length:].rstrip("/")} | shown


async def list_below(storage: Storage, request: StorageRequest, bucket: str) -> Reply:
    caller = storage.caller(request)
    body = await request.json()
    limit = integer(body, "limit", default=1000)
    prefix, delimit = body.get("prefix") or "", bool(body.get("with_delimiter"))
    after = _cursor_name(body)
    descending = _order(body)[1] == "desc"
    query = sql.SQL(_BELOW) + sql.SQL(
        'where %(after)s::text is null or name collate "C" {} %(after)s'
        ' order by name collate "C" {} limit %(limit)s'
    ).format(sql.SQL("<" if descending else ">"), sql.SQL("desc" if descending else "asc"))
    params = {
        "bucket": bucket,
        "prefix": prefix,
        "delimit": delimit,
        "after": after,
        "limit": limit + 1,
    }

    async def work(conn: Connection) -> list[Row]:
        return await fetch_all(conn, query, params)

    rows = await storage.as_caller(caller, request, "storage.object.list_v2", work)
    page, more = rows[:limit], len(rows) > limit
    answer: dict[str, Any] = {"hasNext": more}
    if more:
        last = page[-1]["name"]
        answer["nextCursor"] = base64.b64encode(f"{_CURSOR_PREFIX}{last}".encode()).decode()
        answer["nextCursorKey"] = last
    folder_length = prefix.rfind("/") + 1
    shown = [_below_json(row, folder_length if delimit else None) for row in page]
    answer["folders"] = [entry for entry in shown if entry["id"] is None]
    answer["objects"] = [entry for entry in shown if entry["id"] is not None]
    return json_reply(answer)
