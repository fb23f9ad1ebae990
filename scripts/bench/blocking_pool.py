"""RQ's worker pool as it comes: sixteen processes, each forking a child for each job.

The job's imports are made before the fork, so that the pool shares their memory, which is the most
favourable way to run it.
"""

import os

import redis
from rq.worker_pool import WorkerPool

from scripts.bench.blocking_job import QUEUE

PROCESSES = 16


def main() -> None:
    connection = redis.Redis.from_url(os.environ["REDIS_URL"])
    WorkerPool([QUEUE], connection=connection, num_workers=PROCESSES).start(logging_level="WARNING")


if __name__ == "__main__":
    main()
