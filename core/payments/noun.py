"""What payments bring to worker, health, figures and proofs: see core/noun.py."""

from collections.abc import Mapping
from typing import Any

from core.noun import Check, Health, Noun
from core.payments import jobs
from core.payments.stripe import jobs as stripe_jobs
from core.settings import Settings
from core.tasks.jobs import Fence, Job
from core.tasks.queues import Queue

_SYNCED_LATER = "`payments.sync_unsettled` takes it up again within minutes."
_NEXT_RUN = "Nothing is lost: the next run by schedule does the same."


def _check(row: Mapping[str, Any], settings: Settings) -> list[Check]:
    """Never down: what was paid for arrives once a worker has synced the order."""
    if settings.stripe_secret_key is None:
        return []
    facts = row["health"]
    return [Check("payments", is_well=not any(facts.values()), facts=facts)]


NOUN = Noun(
    name="payments",
    proofs=("select * from app.prove_orders()", "select * from app.prove_purchases()"),
    health=Health(query="select app.payments_health() as health", check=_check),
    events=frozenset(
        {
            "order.paid",
            "order.failed",
            "order.expired",
            "order.returned",
            "order.restored",
            "order.disputed",
            "order.charged_back",
        }
    ),
    figures="select * from app.payments_figures()",
    jobs={
        "payment.sync": Job(
            run=jobs.sync,
            queue=Queue.STRIPE,
            fence=Fence.STATE,
            when_dead=f"The order stays as it was. {_SYNCED_LATER}",
        ),
        "return.create": Job(
            run=jobs.make_return,
            queue=Queue.STRIPE,
            fence=Fence.STATE,
            when_dead="The return of money stays requested, its credits are set aside."
            f" {_SYNCED_LATER}",
        ),
        "return.note": Job(
            run=jobs.note_return,
            queue=Queue.STRIPE,
            fence=Fence.STATE,
            when_dead="The money is back with its buyer. Its invoice has no credit note: write one"
            " in Stripe's dashboard, or replay.",
        ),
        "payment.close_pages": Job(
            run=jobs.close_pages,
            queue=Queue.STRIPE,
            fence=Fence.STATE,
            when_dead="Pages of somebody who may not buy any more stay open for up to two hours."
            " What is paid on them is reviewed.",
        ),
        "payments.sync_unsettled": Job(
            run=jobs.sync_unsettled, queue=Queue.STRIPE, fence=Fence.STATE, when_dead=_NEXT_RUN
        ),
        "payments.sync_completed": Job(
            run=jobs.sync_completed, queue=Queue.STRIPE, fence=Fence.STATE, when_dead=_NEXT_RUN
        ),
        "payments.compare_day": Job(
            run=jobs.compare_day,
            queue=Queue.STRIPE,
            fence=Fence.STATE,
            when_dead="That day was not compared with the provider's: replay it the same day.",
        ),
        "stripe_event.handle": Job(
            run=stripe_jobs.handle_event,
            queue=Queue.STRIPE,
            fence=Fence.STATE,
            when_dead="The event is kept and not handled."
            " `stripe_events.handle_stranded` takes it up again within minutes.",
        ),
        "stripe_events.handle_stranded": Job(
            run=stripe_jobs.handle_stranded,
            queue=Queue.STRIPE,
            fence=Fence.STATE,
            when_dead=_NEXT_RUN,
        ),
        "stripe_events.fetch_missed": Job(
            run=stripe_jobs.fetch_missed, queue=Queue.STRIPE, fence=Fence.STATE, when_dead=_NEXT_RUN
        ),
        "stripe_events.prune": Job(
            run=stripe_jobs.prune, queue=Queue.BACKGROUND, fence=Fence.STATE, when_dead=_NEXT_RUN
        ),
    },
)
