"""A worker's queue: a `gevent.queue.Queue` whose jobs are started in the order of the lane's `QueueOrder`.

Code in the hub puts a job into the queue with `put_nowait`; if that raises `Full`, the job is rejected.

Slots do not wait in `get`, for two reasons. First, `get` wakes the greenlet that has waited longest, so all slots and
sessions would be used in rotation. Instead, the hub wakes the slot that was parked last, and creates a slot only when
it is needed. Second, `get` takes jobs from one queue, whereas a free slot starts the next job from any queue of its
lane.

This module is not compiled, because mypyc cannot compile a subclass of a gevent class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevent.queue import Full, Queue

from .queueorder import QueuedJobs, QueueOrder

if TYPE_CHECKING:
    from .job import Job

__all__ = ["Full", "JobQueue"]


class JobQueue(Queue):  # type: ignore[type-arg]  # gevent 24.2.1 does not allow Queue[Job]
    """The queue of one worker, for at most `maxsize` jobs; if `maxsize` is 0, the queue accepts no jobs.

    `get_nowait` removes the oldest job of the highest priority in this queue; `jobs.remove` removes a given job.
    `task_done` and `join` are not used, because each job records its own end.
    """

    def __init__(self, maxsize: int, order: QueueOrder) -> None:
        self.jobs = QueuedJobs(order)
        """The stored jobs; iterating over the queue itself would remove them."""
        self._takes_jobs = maxsize > 0
        # gevent does not limit the size of a Queue(0).
        super().__init__(maxsize or None)

    # The storage hooks of gevent's queues.

    def _create_queue(self, items: Any = ()) -> Any:
        return self.jobs

    def _put(self, item: Job) -> None:
        if not self._takes_jobs:
            raise Full
        # Unlike gevent's own method, do not count unfinished tasks, because `join` is not used.
        self.jobs.append(item)
