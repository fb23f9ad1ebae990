"""The queues of tasks: one for each thing that a task may have to wait for.

A worker process has slots of its own for each, so that what waits for a silent Stripe or for a
slow file holds nobody else's. Which queue a job's tasks are sent to, its `Job` says.
The names are wire format: of Redis, and of the settings WORKER_SLOTS_<name>.
"""

from enum import StrEnum


class Queue(StrEnum):
    PIXELS = "pixels"
    """The processes for photos."""
    LARGE_PIXELS = "large_pixels"
    """The processes for photos that take seconds."""
    PROVIDER = "provider"
    """A provider of images, and the hosts of its files."""
    STRIPE = "stripe"
    MAIL = "mail"
    """The service that sends mail."""
    DELIVER = "deliver"
    """Servers of our users, which are anybody's."""
    DEFAULT = "default"
    """Our own database, for a moment: tickets."""
    BACKGROUND = "background"
    """What nobody waits for, and what may take long: schedules, erasure."""
