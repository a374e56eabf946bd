"""The order in which the queued jobs of a lane are started, across the queues of all workers.

Jobs are ordered by priority, and within a priority by client while fair queueing is in effect, otherwise by age.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING

from ..policy.priority import PriorityScheduler
from ..policy.routing import oldest
from ..priority import Priority

if TYPE_CHECKING:
    from ..policy.fairness import Clients
    from .job import Job

__all__ = ["FairOrder", "QueueOrder", "QueuedJobs"]


class QueuedJobs:
    """The jobs in one worker's queue, by priority; each change is reported to the lane's `QueueOrder`.

    A `JobQueue` stores its jobs in this object, on which gevent calls `append`, `popleft`, `len()` and `[0]`, as on a
    deque.
    """

    __slots__ = ("_by_class", "_length", "_order")

    def __init__(self, order: QueueOrder) -> None:
        self._order = order
        self._by_class: tuple[deque[Job], ...] = tuple(deque() for _ in Priority)
        self._length = 0

    def __repr__(self) -> str:
        return f"<QueuedJobs {', '.join(str(len(jobs)) for jobs in self._by_class)}>"

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Job]:
        """Iterate over all jobs, higher priorities first."""
        return chain(*self._by_class)

    def __getitem__(self, index: int) -> Job:
        """Return the job at this position, in O(n), or in O(1) for the first job."""
        return next(islice(self, index, None))

    def first(self, priority: int) -> Job | None:
        """Return the oldest job of a priority; None if there is no such job."""
        jobs = self._by_class[priority]
        return jobs[0] if jobs else None

    def last(self, priority: int) -> Job | None:
        """Return the newest job of a priority; None if there is no such job."""
        jobs = self._by_class[priority]
        return jobs[-1] if jobs else None

    def append(self, job: Job) -> None:
        """Add a job behind the other jobs of its priority."""
        self._by_class[job.priority].append(job)
        self._length += 1
        self._order.added(job)

    def popleft(self) -> Job:
        """Remove and return the oldest job of the highest priority."""
        job = self[0]
        self.remove(job)
        return job

    def remove(self, job: Job) -> None:
        """Remove a job; raises ValueError if it is not in the queue."""
        self._by_class[job.priority].remove(job)
        self._length -= 1
        self._order.removed(job)


class QueueOrder:
    """The order in which the queued jobs of a lane are started; the workers' queues report each change."""

    __slots__ = ("_scheduler", "by_class", "count", "fair")

    def __init__(self) -> None:
        self.count = 0
        """Number of queued jobs."""
        self.by_class = [0] * len(Priority)
        """Number of queued jobs by priority."""
        self.fair: FairOrder | None = None
        """The order of the clients while fair queueing is in effect; None otherwise."""
        self._scheduler = PriorityScheduler()

    def __repr__(self) -> str:
        return f"<QueueOrder of {', '.join(map(str, self.by_class))}{'' if self.fair is None else f', {self.fair!r}'}>"

    def added(self, job: Job) -> None:
        """Record a job that was put into a queue."""
        self.count += 1
        self.by_class[job.priority] += 1
        if self.fair is not None:
            self.fair.append(job)

    def removed(self, job: Job) -> None:
        """Record a job that has left its queue."""
        self.count -= 1
        self.by_class[job.priority] -= 1
        if self.fair is not None:
            self.fair.remove(job)

    def next(self, queues: list[QueuedJobs], limit: int) -> Job | None:
        """Return the job to start next, without removing it from its queue; None if no job is queued.

        `limit` is the maximum number of concurrently running jobs. With fair queueing, the job's client becomes the
        most recently served client.
        """
        if not self.count:
            return None
        priority = self._class_next()
        if self.fair is not None:
            return self.fair.next(self.fair.class_within_share(priority, limit))
        firsts = [queue.first(priority) for queue in queues]
        index = oldest([None if job is None else job.arrived for job in firsts])
        return None if index is None else firsts[index]

    def _class_next(self) -> Priority:
        if self.by_class[Priority.CRITICAL] == self.count:
            # Take a shortcut for the usual case that priorities are not used.
            return Priority.CRITICAL
        return self._scheduler.next(self.by_class)


class FairOrder:
    """The order of the clients that have queued jobs, while a lane rejects requests.

    The next job is the oldest queued job of the client that was served least recently. The order is Nagle's round robin
    (RFC 970, 1985): a request of a client with few requests does not wait behind all requests of the other clients.
    """

    __slots__ = ("_by_class",)

    def __init__(self, clients: Clients, jobs: Iterable[Job]) -> None:
        self._by_class = tuple(_Class(clients) for _ in Priority)
        for job in jobs:
            self.append(job)

    def __repr__(self) -> str:
        return f"<FairOrder of {', '.join(str(len(each.order)) for each in self._by_class)} clients>"

    def append(self, job: Job) -> None:
        """Add a job behind the other jobs of its client."""
        self._by_class[job.priority].append(job)

    def remove(self, job: Job) -> None:
        """Remove a job that has left its worker's queue."""
        self._by_class[job.priority].remove(job)

    def class_within_share(self, priority: Priority, limit: int) -> Priority:
        """Return the highest priority, `priority` or lower, in which a client within its share has queued jobs.

        Returns `priority` if no client is within its share. `limit` is the maximum number of concurrently running jobs.
        """
        for each in range(priority, len(self._by_class)):
            if self._by_class[each].within_share(limit):
                return Priority(each)
        return priority

    def next(self, priority: int) -> Job:
        """Return the job of a priority that starts next, and move the job's client behind the other clients.

        The job is the oldest of its client's jobs. The job stays queued until `remove` is called.
        """
        return self._by_class[priority].next()


class _Class:
    """The queued jobs of one priority.

    `order` lists the clients of these jobs, the least recently served client first. Clients that were never served are
    listed before all other clients, in the order in which they joined.
    """

    __slots__ = ("_clients", "_entries", "_jobs", "_number", "order")

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._jobs: dict[Hashable, deque[Job]] = {}
        self._entries: dict[Hashable, tuple[int, int, Hashable]] = {}
        self._number = 0
        self.order: list[tuple[int, int, Hashable]] = []

    def append(self, job: Job) -> None:
        """Add a job behind the other jobs of its client."""
        if job.client not in self._jobs:
            self._jobs[job.client] = deque()
            self._join(job.client)
        self._jobs[job.client].append(job)

    def remove(self, job: Job) -> None:
        """Remove a job; if the client has no further jobs, remove the client from `order`."""
        jobs = self._jobs[job.client]
        jobs.remove(job)
        if not jobs:
            del self._jobs[job.client]
            self._leave(job.client)

    def next(self) -> Job:
        """Return the oldest job of the first client, and move the client behind the other clients."""
        client = self.order[0][-1]
        self._leave(client)
        self._clients.mark_served(client)
        self._join(client)
        return self._jobs[client][0]

    def within_share(self, limit: int) -> bool:
        """Return whether any of the first `LOOKED_AT` clients in `order` is within its share."""
        return any(not self._clients.beyond_share(entry[-1], limit) for entry in self.order[: self._clients.LOOKED_AT])

    def _join(self, client: Hashable) -> None:
        self._number += 1
        entry = self._entries[client] = (self._clients.last_served(client), self._number, client)
        insort(self.order, entry)

    def _leave(self, client: Hashable) -> None:
        del self.order[bisect_left(self.order, self._entries.pop(client))]
