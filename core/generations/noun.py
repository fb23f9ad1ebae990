"""What generations bring to worker, health, figures and proofs: see core/noun.py."""

from collections.abc import Mapping
from typing import Any

from core.generations.pipeline import cancel, collect, dispatch, fail, late, lines, poll
from core.noun import Check, Health, Noun
from core.settings import Settings
from core.tasks.jobs import Backoff, Fence, Job
from core.tasks.queues import Queue


def _check(row: Mapping[str, Any], _: Settings) -> list[Check]:
    facts = row["health"]
    return [
        Check(
            "provider_accounts",
            facts["healthy"] > 0,
            {
                "healthy": facts["healthy"],
                "known": facts["known"],
                "refused_keys": facts["refused_keys"],
            },
        ),
        Check("queue", is_well=True, facts={"age_seconds": round(facts["queue_age_seconds"], 1)}),
    ]


NOUN = Noun(
    name="generations",
    proofs=("select * from app.prove_generations()",),
    health=Health(query="select app.generations_health() as health", check=_check),
    events=frozenset(
        {
            "generation.created",
            "generation.changed",
            "generation.succeeded",
            "generation.failed",
            "generation.cancelled",
            "late_image.arrived",
        }
    ),
    figures="select * from app.generations_figures() union all select * from app.unpaid_figures()",
    jobs={
        "generation.dispatch": Job(
            run=dispatch.dispatch_for,
            queue=Queue.DEFAULT,
            fence=Fence.STATE,
            when_dead="The generation still waits: the dispatch loop serves it in its turn.",
        ),
        "provider_call.collect": Job(
            run=collect.collect,
            queue=Queue.PROVIDER,
            fence=Fence.LEASE,
            # A file that is back is fetched soon: somebody waits for the image.
            backoff=Backoff(seconds_max=15),
            on_dead=fail.fail_uncollected,
            when_dead="Its generation has failed and the credits are back; a replay may still"
            " bring the image, as a late one.",
        ),
        "provider_call.cancel": Job(
            run=cancel.cancel_call,
            queue=Queue.PROVIDER,
            fence=Fence.STATE,
            when_dead="The provider was not told; the call's own end, or its deadline, decides.",
        ),
        "provider_calls.end_polls": Job(
            run=poll.end_polls,
            queue=Queue.BACKGROUND,
            fence=Fence.STATE,
            when_dead="Calls of keys that are gone stay due for polls, which nobody makes.",
        ),
        "generations.mend_lines": Job(
            run=lines.mend,
            queue=Queue.BACKGROUND,
            fence=Fence.STATE,
            when_dead="Who has no place in its line waits for the next minute's run.",
        ),
        "late_images.expire": Job(
            run=late.expire,
            queue=Queue.BACKGROUND,
            fence=Fence.STATE,
            when_dead="Late images past their time stay until the next hour's run; nobody can buy"
            " them.",
        ),
    },
)
