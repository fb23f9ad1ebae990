"""What toys bring to the whole: see core/noun.py."""

from core.toys import service

from core.noun import Noun
from core.tasks.jobs import Fence, Job
from core.tasks.queues import Queue

NOUN = Noun(
    name="toys",
    jobs={
        "toy.polish": Job(
            run=service.polish,
            queue=Queue.DEFAULT,
            fence=Fence.STATE,
            when_dead="The toy stays as it was.",
        )
    },
    events=frozenset({"toy.polished"}),
    proofs=("select * from app.prove_toys()",),
    figures="select * from app.toys_figures()",
)
