"""What uploads bring to worker, health, figures and proofs: see core/noun.py."""

from core.noun import Noun
from core.tasks.jobs import Fence, Job
from core.tasks.queues import Queue
from core.uploads import processing

NOUN = Noun(
    name="uploads",
    events=frozenset(
        {
            "upload.expired",
            "upload.ready",
            "upload.rejected",
        }
    ),
    jobs={
        "upload.normalise": Job(
            run=processing.normalise,
            queue=Queue.PIXELS,
            fence=Fence.LEASE,
            on_dead=processing.reject_unprocessed,
            when_dead="The upload is rejected; its owner is asked to send the photo again.",
        ),
        "upload.normalise_large": Job(
            run=processing.normalise,
            queue=Queue.LARGE_PIXELS,
            fence=Fence.LEASE,
            on_dead=processing.reject_unprocessed,
            when_dead="The upload is rejected; its owner is asked to send the photo again.",
        ),
        "upload.erase": Job(
            run=processing.erase,
            queue=Queue.BACKGROUND,
            fence=Fence.STATE,
            when_dead="Files of a photo that is no longer wanted stay in storage: replay it.",
        ),
        "uploads.expire": Job(
            run=processing.expire,
            queue=Queue.BACKGROUND,
            fence=Fence.STATE,
            when_dead="Uploads that never came stay pending until the next hour's run.",
        ),
    },
)
