"""The workers: which one gets a job, whose waiting job is stolen, how some come and go.

Decides by `policy/routing.py` among the workers there are. It must not know deadlines or outcomes: the keeper of the
jobs does.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from gevent.event import Event

from ..observe.snapshot import WorkerSnapshot
from ..options import Options
from ..policy.routing import least_busy, oldest
from .job import Job, JobKeeper
from .slot import Slot
from .worker import Worker

__all__ = ["WorkerPool"]


class WorkerPool:
    """All workers of a balancer: those in routing, and those that only finish what they have."""

    def __init__(self, options: Options, keeper: JobKeeper) -> None:
        self.options = options
        self.keeper = keeper
        self.active: list[Worker] = []
        self.retiring: list[Worker] = []
        self.queued = 0
        """Jobs in all queues; the workers keep it."""
        self._ids = 0
        self._turn = 0
        self._changed: Event | None = None

    def __repr__(self) -> str:
        return f"<WorkerPool {len(self.active)} active, {len(self.retiring)} retiring, {self.queued} queued>"

    @property
    def all(self) -> list[Worker]:
        """Active and retiring workers."""
        return self.active + self.retiring

    @property
    def slots(self) -> list[Slot]:
        """Every slot that has been spawned and has not ended."""
        return [slot for worker in self.all for slot in worker.slots]

    @property
    def waiting(self) -> list[Job]:
        """Every job without a slot."""
        return [job for worker in self.all for job in (*worker.ready, *worker.queue)]

    @property
    def running(self) -> int:
        """Slots with a job."""
        return sum(worker.running for worker in self.all)

    def least_busy(self) -> Worker:
        """Return a worker with the fewest jobs; ties take turns."""
        workers = self.active
        index = least_busy([worker.load for worker in workers], self._turn)
        self._turn = (index + 1) % len(workers)
        return workers[index]

    def steal(self) -> Job | None:
        """Take the job that has waited longest in any queue, for a slot that found its own queue empty."""
        if not self.queued:
            return None
        workers = self.all
        index = oldest([worker.queue[0].arrived if worker.queue else None for worker in workers])
        return None if index is None else workers[index].dequeue()

    def add(self, count: int) -> None:
        """Add workers; jobs that wait elsewhere move into their slots."""
        for _ in range(count):
            self._ids += 1
            self.active.append(Worker(self, self._ids))
        while self.queued:
            worker = self.least_busy()
            if worker.load >= self.options.max_concurrent_per_router:
                break
            job = self.steal()
            if job is not None:
                worker.run(job)

    def retire(self, count: int) -> None:
        """Take the youngest workers out of routing; they end when their jobs have."""
        kept = len(self.active) - count
        leaving = self.active[kept:]
        del self.active[kept:]
        self._turn = 0
        self.retiring += leaving
        for worker in leaving:
            worker.retire()

    def retired(self, worker: Worker) -> None:
        """The last slot of a retiring worker is gone."""
        self.retiring.remove(worker)
        self.released()

    def released(self) -> None:
        """A slot or a place in a queue has become free."""
        if self._changed is not None:
            self._changed.set()

    def wait_until_idle(self, timeout: float) -> None:
        """Wait until no worker has a job, `timeout` seconds at most."""
        self._wait_until(lambda: not any(worker.load for worker in self.all), timeout)

    def wait_until_retired(self, timeout: float) -> None:
        """Wait until every retiring worker has gone, `timeout` seconds at most."""
        self._wait_until(lambda: not self.retiring, timeout)

    def _wait_until(self, reached: Callable[[], bool], timeout: float) -> None:
        end = monotonic() + timeout
        changed = self._changed = Event()
        while not reached() and (left := end - monotonic()) > 0:
            changed.clear()
            changed.wait(left)
        self._changed = None

    def snapshot(self) -> tuple[WorkerSnapshot, ...]:
        """Return a picture of each worker."""
        return tuple(worker.snapshot() for worker in self.all)
