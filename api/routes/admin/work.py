"""For admins: dead letters and their replay, and the health of provider accounts."""

import uuid
from datetime import datetime
from typing import Annotated

from litestar import Router, get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from api.http.params import Cursor, PageSize
from api.identity import CurrentAdmin
from api.openapi import ADMIN
from api.problems import raises
from api.resources import AppResources, Db
from api.schemas.admin.work import ReplayedTask
from api.schemas.common import Page, decode_cursor, encode_cursor
from core.db import Connection
from core.errors import InvalidInputError, NotAllowedError, NotFoundError
from core.tasks import dead_letters as admin_work
from core.tasks.dead_letters import DeadLetter, ProviderAccount
from core.tasks.outbox import DueTask


@get(
    "/v1/admin/dead-letters",
    operation_id="list_dead_letters",
    summary="Tasks that were given up, newest first",
    description="What a task was for has ended in the same moment: a generation's credits are"
    " back, an upload is rejected.",
    tags=["Admin"],
    security=ADMIN,
    responses=raises(NotAllowedError, InvalidInputError),
)
async def list_dead_letters(
    admin: CurrentAdmin,
    db: Db,
    *,
    job: FromQuery[str | None] = None,
    open_only: Annotated[bool, QueryParameter(description="Leave out replayed ones.")] = True,
    cursor: Cursor = None,
    limit: PageSize = 20,
) -> Page[DeadLetter]:
    before = decode_cursor(cursor, datetime, uuid.UUID) if cursor else None

    async def work(conn: Connection) -> list[DeadLetter]:
        return await admin_work.list_dead_letters(
            conn,
            job=job,
            open_only=open_only,
            before=(before[0], before[1]) if before else None,
            limit=limit + 1,
        )

    found = await db.run(work, scope=admin.scope)
    page = found[:limit]
    more = len(found) > limit
    return Page(
        items=page, next_cursor=encode_cursor(page[-1].died_at, page[-1].id) if more else None
    )


@post(
    "/v1/admin/dead-letters/{letter_id:uuid}/replay",
    operation_id="replay_dead_letter",
    summary="Try a given-up task again",
    description="Audited. An image that is delivered after its refund is offered as a late image;"
    " nobody is charged by a replay.",
    tags=["Admin"],
    security=ADMIN,
    status_code=202,
    responses=raises(NotAllowedError, NotFoundError),
)
async def replay_dead_letter(
    admin: CurrentAdmin, resources: AppResources, letter_id: FromPath[uuid.UUID]
) -> ReplayedTask:
    async def work(conn: Connection) -> uuid.UUID:
        return await admin_work.replay_dead_letter(conn, letter_id)

    task_id = await resources.db.run(work, scope=admin.scope)
    resources.queue.enqueue_soon(DueTask(id=task_id, queue="default", attempts=0))
    return ReplayedTask(task_id)


@get(
    "/v1/admin/provider-accounts",
    operation_id="list_provider_accounts",
    summary="Provider accounts: slots, breaker, cooldown, keys",
    description="A key is shown by the name of its variable and its fingerprint.",
    tags=["Admin"],
    security=ADMIN,
    responses=raises(NotAllowedError),
)
async def list_provider_accounts(admin: CurrentAdmin, db: Db) -> list[ProviderAccount]:
    return await db.run(admin_work.list_provider_accounts, scope=admin.scope)


router = Router("/", route_handlers=[list_dead_letters, replay_dead_letter, list_provider_accounts])
