"""What a user does with generations: start, read, cancel, try again, fetch the image.

Every function runs in the caller's transaction, scoped to the user: row level security shows own
rows only, and the writing functions take the identity from the claims.
"""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from core.catalog import service as catalog
from core.changes import Change
from core.db import Connection, fetch_all, fetch_one
from core.errors import ConflictError, NotFoundError
from core.generations.errors import GenerationReason
from core.generations.types import (
    Filters,
    Generation,
    GenerationState,
    LateImage,
    NewGeneration,
    Outlook,
    ResultFile,
    StateChange,
)

_COLUMNS = (
    "id, operation, operation_version, lane, state, version, cost_credits, upload_id, params,"
    " priority, retry_of, created_at, wait_until,"
    " coalesce(deadline_at, app.latest_end(generations)) as deadline_at, finished_at,"
    " cancel_requested_at, result, ending, charged_credits,"
    " case when finished_at is null then app.cancel_share(generations) else 0 end"
    " as cancel_credits,"
    " case when finished_at is null then app.generation_outlook(id) end as outlook"
)


def _generation(row: dict[str, Any]) -> Generation:
    return msgspec.convert(row, Generation)


async def start(conn: Connection, new: NewGeneration) -> Generation:
    """Reserves the price and queues the generation, whose ticket has its id.

    Raises: InvalidInputError (parameters), InsufficientCreditsError, NotFoundError (operation or
    upload), ConflictError (the upload is not ready), NoIdentityError.
    Replay: the same id and terms answer as they were taken.
    """
    operation = await catalog.get_operation(conn, new.operation)
    params = catalog.check_params(operation, new.params)
    row = await fetch_one(
        conn,
        "select app.start_generation(%s, %s, %s, %s, %s::smallint, %s) as answer",
        (
            new.id,
            new.operation,
            new.upload_id,
            Jsonb(params),
            int(new.priority),
            new.retry_of,
        ),
    )
    assert row is not None
    answer = row["answer"]
    return Generation(
        id=new.id,
        operation=new.operation,
        operation_version=answer["operation_version"],
        lane=answer["lane"],
        state=GenerationState.QUEUED,
        version=answer["version"],
        cost_credits=answer["cost_credits"],
        upload_id=new.upload_id,
        params=params,
        priority=new.priority,
        retry_of=new.retry_of,
        created_at=datetime.fromisoformat(answer["created_at"]),
        wait_until=datetime.fromisoformat(answer["wait_until"]),
        deadline_at=datetime.fromisoformat(answer["deadline_at"]),
        outlook=msgspec.convert(answer["outlook"], Outlook | None),
    )


async def get(conn: Connection, generation_id: uuid.UUID) -> Generation:
    """Raises: NotFoundError, also for another user's."""
    row = await fetch_one(
        conn,
        f"select {_COLUMNS} from app.generations where id = %s",  # noqa: S608  own constant
        (generation_id,),
    )
    if row is None:
        raise NotFoundError(kind="generation")
    return _generation(row)


async def timeline(conn: Connection, generation_id: uuid.UUID) -> list[StateChange]:
    rows = await fetch_all(
        conn,
        "select payload ->> 'state' as state, version, created_at as at from app.events"
        " where subject_id = %s and type like 'generation.%%' order by version",
        (generation_id,),
    )
    return [msgspec.convert(row, StateChange) for row in rows]


_LIST = f"""
select {_COLUMNS}
from app.generations
where user_id = (select app.current_user_id())
  and (%(state)s::text is null or state = %(state)s)
  and (%(operation)s::text is null or operation = %(operation)s)
  and (%(upload_id)s::uuid is null or upload_id = %(upload_id)s)
  and (%(before)s::timestamptz is null or (created_at, id) < (%(before)s, %(before_id)s))
order by created_at desc, id desc
limit %(limit)s
"""  # noqa: S608  own constants


async def list_generations(
    conn: Connection,
    filters: Filters,
    *,
    before: tuple[datetime, uuid.UUID] | None,
    limit: int,
) -> list[Generation]:
    """Newest first, by keyset; one row more than `limit` tells that another page follows."""
    rows = await fetch_all(
        conn,
        _LIST,
        {
            "state": filters.state,
            "operation": filters.operation,
            "upload_id": filters.upload_id,
            "before": before[0] if before else None,
            "before_id": before[1] if before else None,
            "limit": limit,
        },
    )
    return [_generation(row) for row in rows]


async def cancel(conn: Connection, generation_id: uuid.UUID) -> Change:
    """Free until a step is delivered; then the stated share of the price is charged.

    While a call runs it is a request to the provider, and money moves on its end.

    Raises: NotFoundError, ConflictError (it has ended). Replay: a cancelled one stays so.
    """
    row = await fetch_one(conn, "select app.cancel_generation(%s) as change", (generation_id,))
    assert row is not None
    return msgspec.convert(row["change"], Change)


async def retry_terms(conn: Connection, generation_id: uuid.UUID) -> NewGeneration:
    """The same work as a new generation, at today's price.

    Raises: NotFoundError, ConflictError (it has not ended yet).
    """
    old = await get(conn, generation_id)
    if not old.is_finished:
        raise ConflictError(reason=GenerationReason.NOT_FINISHED, state=old.state)
    return NewGeneration(
        operation=old.operation,
        upload_id=old.upload_id,
        params=old.params,
        priority=old.priority,
        retry_of=old.id,
    )


async def find_late_image(conn: Connection, generation_id: uuid.UUID) -> LateImage | None:
    row = await fetch_one(
        conn,
        "select expires_at, bought_as, (result ->> 'width')::integer as width,"
        " (result ->> 'height')::integer as height from app.late_images"
        " where generation_id = %s and (expires_at > app.now() or bought_as is not null)",
        (generation_id,),
    )
    return msgspec.convert(row, LateImage) if row else None


async def buy_late_image(
    conn: Connection, bought_id: uuid.UUID, generation_id: uuid.UUID
) -> Generation:
    """Pays for an image that came after its refund; a new generation that is done at once.

    Raises: NotFoundError, GoneError, InsufficientCreditsError, ConflictError (already bought).
    """
    await conn.execute("select app.buy_late_image(%s, %s)", (bought_id, generation_id))
    return await get(conn, bought_id)


_FILE_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


def result_file(generation: Generation, *, thumbnail: bool) -> ResultFile:
    """Raises: ConflictError (there is no image)."""
    result = generation.result
    if result is None:
        raise ConflictError(reason=GenerationReason.NO_IMAGE, state=generation.state)
    key = result.thumbnail_key if thumbnail else result.storage_key
    extension = key.rpartition(".")[2]
    suffix = "-thumbnail" if thumbnail else ""
    return ResultFile(
        storage_key=key,
        content_type=_FILE_TYPES[extension],
        name=f"jewelshot-{generation.operation}-{str(generation.id)[-12:]}{suffix}.{extension}",
    )


def signed_until(seconds: int) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
