"""What credits bring to worker, health, figures and proofs: see core/noun.py."""

from typing import Protocol

import structlog

from core.credits import service
from core.db import Database
from core.noun import Noun
from core.tasks.jobs import DONE, Fence, Job, Outcome
from core.tasks.outbox import Task
from core.tasks.queues import Queue

log = structlog.get_logger()

_ACCOUNTS_AT_ONCE = 500


class CreditTools(Protocol):
    """`db` signs in as the worker."""

    @property
    def db(self) -> Database: ...


async def expire(tools: CreditTools, _: Task) -> Outcome:
    """`credits.expire` {}"""
    expired = await tools.db.run(
        lambda conn: service.expire_credits(conn, accounts_max=_ACCOUNTS_AT_ONCE)
    )
    if expired:
        log.info("credits.expired", credits=expired)
    return DONE


NOUN = Noun(
    name="credits",
    proofs=(
        "select * from app.prove_ledger()",
        "select * from app.prove_restores()",
        "select * from app.prove_signups()",
        "select * from app.prove_adjustments()",
    ),
    events=frozenset(
        {
            "credits.ran_low",
            "credits.ran_out",
            "credits.expired",
            "credits.adjusted",
        }
    ),
    figures="select * from app.credits_figures()",
    jobs={
        "credits.expire": Job(
            run=expire,
            queue=Queue.BACKGROUND,
            fence=Fence.STATE,
            when_dead="Lots past their time wait for the next hour's run; nobody can spend them.",
        ),
    },
)
