"""The jobs that wait, by client: who has a turn next where more come than there is room for.

Decides the order: next is the client whose last turn was earliest, with the job of its own that has waited longest. So
do the queues of Nagle (RFC 970, 1985) take turns; a client that asks seldom finds its turn come when it asks. It must
not know how much a client may hold, or what becomes of a job.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING

from ..priority import Priority

if TYPE_CHECKING:
    from ..policy.fairness import Clients
    from .job import Job

__all__ = ["FairQueue"]


class FairQueue:
    """The jobs in the workers' queues once more, for each class; the workers tell it who comes and who goes."""

    __slots__ = ("_by_class",)

    def __init__(self, clients: Clients, jobs: Iterable[Job]) -> None:
        self._by_class = tuple(_Class(clients) for _ in Priority)
        for job in jobs:
            self.append(job)

    def __repr__(self) -> str:
        return f"<FairQueue of {', '.join(str(len(each.order)) for each in self._by_class)} clients>"

    def append(self, job: Job) -> None:
        """A job waits behind the others of its client."""
        self._by_class[job.priority].append(job)

    def remove(self, job: Job) -> None:
        """A job waits no more."""
        self._by_class[job.priority].remove(job)

    def class_within_share(self, priority: Priority, limit: int) -> Priority:
        """Return the highest class, from this one down, in which a client waits that is not beyond its share.

        It is this one if there is none. `limit` jobs may run at the same time.
        """
        for each in range(priority, len(self._by_class)):
            if self._by_class[each].within_share(limit):
                return Priority(each)
        return priority

    def next(self, priority: int) -> Job:
        """Return the job of a class whose turn it is, and let its client's next turn come after those of the others.

        Of a client's jobs it is the one that has waited longest.
        """
        return self._by_class[priority].next()


class _Class:
    """One class of it. In `order` is the number of a client's last turn, and one that keeps equal ones as they came."""

    __slots__ = ("_clients", "_entries", "_jobs", "_number", "order")

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._jobs: dict[Hashable, deque[Job]] = {}
        self._entries: dict[Hashable, tuple[int, int, Hashable]] = {}
        self._number = 0
        self.order: list[tuple[int, int, Hashable]] = []

    def append(self, job: Job) -> None:
        if job.client not in self._jobs:
            self._jobs[job.client] = deque()
            self._join(job.client)
        self._jobs[job.client].append(job)

    def remove(self, job: Job) -> None:
        jobs = self._jobs[job.client]
        jobs.remove(job)
        if not jobs:
            del self._jobs[job.client]
            self._leave(job.client)

    def next(self) -> Job:
        client = self.order[0][-1]
        self._leave(client)
        self._clients.take_turn(client)
        self._join(client)
        return self._jobs[client][0]

    def within_share(self, limit: int) -> bool:
        """Say whether any of the clients that are next is not beyond its share."""
        return any(not self._clients.beyond_share(entry[-1], limit) for entry in self.order[: self._clients.LOOKED_AT])

    def _join(self, client: Hashable) -> None:
        self._number += 1
        entry = self._entries[client] = (self._clients.last_turn(client), self._number, client)
        insort(self.order, entry)

    def _leave(self, client: Hashable) -> None:
        del self.order[bisect_left(self.order, self._entries.pop(client))]
