"""For admins: dead letters, and their replay."""

import uuid
from datetime import datetime
from typing import Annotated

from litestar import Router, get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from api.http.once import ONCE_ERRORS, REPLAYED_HEADER, OnceKey
from api.http.pages import AskedPage, Keyset, Page, read_page
from api.identity import CurrentAdmin
from api.openapi import ADMIN
from api.problems import raises
from api.resources import Db
from api.schemas.admin.dead_letters import DeadLetterView, ReplayedTask, dead_letter_view
from core.db import Connection
from core.errors import InvalidInputError, NotAllowedError, NotFoundError
from core.tasks import dead_letters
from core.tasks.dead_letters import DeadLetter

_NEWEST_FIRST: Keyset[DeadLetter, tuple[datetime, uuid.UUID]] = Keyset(
    tuple[datetime, uuid.UUID], lambda letter: (letter.died_at, letter.id)
)


@get(
    "/v1/admin/dead-letters",
    operation_id="list_dead_letters",
    summary="Tasks that were given up, newest first",
    description="`meaning` says what is true of the thing that the task was for: some end with the"
    " task, others are taken up by a schedule.",
    tags=["Admin"],
    security=ADMIN,
    responses=raises(NotAllowedError, InvalidInputError),
)
async def list_dead_letters(
    admin: CurrentAdmin,
    db: Db,
    page: AskedPage,
    *,
    job: FromQuery[str | None] = None,
    open_only: Annotated[bool, QueryParameter(description="Leave out replayed ones.")] = True,
) -> Page[DeadLetterView]:
    found = await read_page(
        db,
        admin.scope,
        page,
        _NEWEST_FIRST,
        lambda conn, before, limit: dead_letters.list_dead_letters(
            conn, job=job, open_only=open_only, before=before, limit=limit
        ),
    )
    return found.show(dead_letter_view)


@post(
    "/v1/admin/dead-letters/{letter_id:uuid}/replay",
    operation_id="replay_dead_letter",
    summary="Try a given-up task again",
    description="Audited. An image that is delivered after its refund is offered as a late image;"
    " nobody is charged by a replay.",
    tags=["Admin"],
    security=ADMIN,
    status_code=202,
    response_headers=[REPLAYED_HEADER],
    responses=raises(NotAllowedError, NotFoundError, *ONCE_ERRORS),
)
async def replay_dead_letter(
    admin: CurrentAdmin, db: Db, once: OnceKey, letter_id: FromPath[uuid.UUID]
) -> ReplayedTask:
    async def replay(conn: Connection) -> ReplayedTask:
        return ReplayedTask(await dead_letters.replay_dead_letter(conn, letter_id))

    return await once.run(db, admin.scope, ReplayedTask, replay)


router = Router("/", route_handlers=[list_dead_letters, replay_dead_letter])
