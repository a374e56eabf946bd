"""The workers of a lane: which one gets a job, whose waiting job a free slot takes, how some come and go.

Decides by `policy/routing.py` among the workers there are, by `policy/priority.py` among the classes that wait, by
`fairqueue.py` among their clients. It must not know deadlines or outcomes: the
keeper of the jobs does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from time import monotonic

from ..observe.snapshot import WorkerSnapshot
from ..options import Options
from ..policy.fairness import Clients
from ..policy.priority import Turns
from ..policy.routing import least_busy, oldest
from ..priority import Priority
from .fairqueue import FairQueue
from .hublog import HubLog
from .hubturns import HubTurns
from .job import STREAM_LASTS_SECONDS, Job, JobKeeper
from .loghandlers import LOGGER
from .session import SessionRules
from .slot import Slot
from .worker import Worker

__all__ = ["WorkerPool"]

_LEFTOVERS = (
    "a request left something behind that can still interrupt its greenlet, such as a gevent.Timeout that was not "
    "cancelled; its slot takes a fresh greenlet, which costs it the connections in its thread-locals. "
    "Cancel timeouts and timers in a finally block. This is logged once"
)


class WorkerPool:
    """All workers of a lane: those in routing, and those that only finish what they have."""

    def __init__(self, options: Options, keeper: JobKeeper, ids: Iterator[int]) -> None:
        self.options = options
        self.keeper = keeper
        self.session_rules = SessionRules(options)
        self.active: list[Worker] = []
        self.retiring: list[Worker] = []
        self.queued = 0
        """Jobs in all queues; the workers keep it."""
        self.queued_by_class = [0] * len(Priority)
        """The same for each class."""
        self.limit: int | None = None
        """How many jobs may run at the same time beside lasting streams, where that is less than there are slots."""
        self.streams: set[Job] = set()
        """The jobs whose responses are streamed now."""
        self.most_streams = max(1, options.max_workers * options.max_concurrent_per_router * 3 // 4)
        """How many there may be where `max_streams` is not set: a quarter of the slots is left for other requests."""
        self.lasting = 0
        """How many streams have gone on for so long that they mostly wait, which costs the event loop nothing."""
        self.fair_queue: FairQueue | None = None
        """The queued jobs by client, while more come than there is room for; the workers keep it."""
        self.given_up: list[Slot] = []
        """Slots without a worker, whose applications cannot be ended; kept, as they would be ended with a reference."""
        self.turns = HubTurns(keeper.turn_end)
        self.leftovers = 0
        """How many requests left something behind that could have acted on the next one in their slot."""
        self._log = HubLog(LOGGER.log)
        self._ids = ids
        self._turn = 0
        self._order = Turns()

    def __repr__(self) -> str:
        return f"<WorkerPool {len(self.active)} active, {len(self.retiring)} retiring, {self.queued} queued>"

    # What there is.

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
    def jobs(self) -> list[Job]:
        """Every job that has not ended."""
        return self.waiting + [slot.job for slot in self.slots if slot.job is not None and slot.job.ended is None]

    @property
    def load(self) -> int:
        """Jobs of the workers in routing."""
        return sum(worker.load for worker in self.active)

    @property
    def running(self) -> int:
        """Slots with a job."""
        return sum(worker.running for worker in self.all)

    @property
    def executing(self) -> int:
        """Jobs that have a slot, and not only a place in the hub's next round."""
        return sum(worker.running - len(worker.ready) for worker in self.all)

    @property
    def slots_in_all(self) -> int:
        """Slots of the workers in routing, be they spawned already or not."""
        return len(self.active) * self.options.max_concurrent_per_router

    @property
    def places(self) -> int:
        """How many jobs of the workers in routing may be running and waiting."""
        running = self.slots_in_all
        if self.limit is not None:
            # Those that the others still run count, too.
            limit = min(running, self.limit + self.lasting)
            running = max(0, limit - sum(worker.running for worker in self.retiring))
        return running + len(self.active) * self.options.queue_size

    @property
    def at_limit(self) -> bool:
        """Whether no further job may run, though there may be free slots."""
        return self.limit is not None and self.running - self.lasting >= self.limit

    def count_lasting(self, now: float) -> None:
        """Count the streams that last, at every tick."""
        begun_by = now - STREAM_LASTS_SECONDS
        self.lasting = sum(job.streams_since is not None and job.streams_since <= begun_by for job in self.streams)

    def waiting_before(self, priority: Priority) -> int:
        """Return how many jobs wait whose turn comes before that of one more of this class."""
        waiting = self.ready
        # Asked for each refusal: where this is compiled a loop is quicker than sum().
        for queued in self.queued_by_class[: priority + 1]:
            waiting += queued
        return waiting

    @property
    def ready(self) -> int:
        """Jobs that will have a slot at the hub's next round."""
        return sum(len(worker.ready) for worker in self.active) + sum(len(worker.ready) for worker in self.retiring)

    @property
    def waiting_count(self) -> int:
        """How many jobs have no slot yet, nearly: one that has left lately may still count."""
        return self.queued + self.turns.count

    @property
    def several_wait(self) -> bool:
        """Whether more than one job waits."""
        return self.queued + self.ready > 1

    def queue_age(self, now: float, priority: Priority | None = None) -> float:
        """Return for how long the first of the queued jobs (of a class) has waited, in seconds; 0 if there is none."""
        classes = Priority if priority is None else (priority,)
        firsts = (worker.queue.first(c) for worker in self.all for c in classes)
        return max((now - job.arrived for job in firsts if job is not None), default=0.0)

    def longest_wait(self, now: float) -> float:
        """Return for how long the oldest job without a slot has waited, in seconds; 0 if there is none."""
        ready = max((now - worker.ready[0].arrived for worker in self.all if worker.ready), default=0.0)
        return max(ready, self.queue_age(now))

    def newest_below(self, priority: Priority) -> Job | None:
        """Return the newest queued job of the lowest class below this one that has any."""
        for lower in reversed(Priority):
            if lower <= priority:
                break
            if self.queued_by_class[lower]:
                lasts = (worker.queue.last(lower) for worker in self.all)
                return max((job for job in lasts if job is not None), key=lambda job: job.arrived)
        return None

    # Where a job goes.

    def least_busy(self) -> Worker:
        """Return a worker with the fewest jobs; ties take turns."""
        workers = self.active
        index = least_busy([worker.load for worker in workers], self._turn)
        self._turn = (index + 1) % len(workers)
        return workers[index]

    def bring(self, job: Job) -> None:
        """Let a job run, or wait where the fewest do; there is a place for it."""
        worker = self.least_busy()
        if self.at_limit:
            min(self.active, key=lambda worker: len(worker.queue)).enqueue(job)
        elif worker.load < self.options.max_concurrent_per_router:
            worker.run(job)
        else:
            worker.enqueue(job)

    def next_for(self, worker: Worker) -> Job | None:
        """Take the waiting job that is next for a free slot of this worker, out of whichever queue."""
        if self.at_limit or not self.queued:
            return None
        if worker.retiring and not worker.queue:
            return None
        priority = self._class_next()
        if self.fair_queue is not None:
            return self._next_in_turn(priority, self.fair_queue)
        return self._oldest(priority)

    def _class_next(self) -> Priority:
        if self.queued_by_class[Priority.CRITICAL] == self.queued:
            # Where classes are not told apart.
            return Priority.CRITICAL
        return self._order.next(self.queued_by_class)

    def take_turns(self, clients: Clients) -> None:
        """Let the clients take turns, as long as there is a fair queue; the jobs know their clients."""
        self.fair_queue = FairQueue(clients, (job for worker in self.all for job in worker.queue))

    def _next_in_turn(self, priority: Priority, fair_queue: FairQueue) -> Job:
        job = fair_queue.next(priority)
        if (owner := job.worker) is not None:
            owner.take(job)
            owner.leave_if_empty()
        return job

    def _oldest(self, priority: Priority) -> Job | None:
        """Take the job of a class that has waited longest, whichever worker's queue it is in."""
        workers = self.all
        firsts = [worker.queue.first(priority) for worker in workers]
        index = oldest([None if job is None else job.arrived for job in firsts])
        if index is None:
            return None
        job = workers[index].dequeue(priority)
        workers[index].leave_if_empty()
        return job

    def fill(self) -> None:
        """Let waiting jobs have the slots that are free for them, as there are more now."""
        while self.queued and self.active and not self.at_limit:
            worker = min(self.active, key=lambda worker: worker.running)
            if worker.running >= self.options.max_concurrent_per_router:
                break
            job = self.next_for(worker)
            if job is not None:
                worker.run(job)

    # How many there are.

    def add(self, count: int) -> None:
        """Add workers; jobs that wait elsewhere move into their slots."""
        self.active += [Worker(self, next(self._ids)) for _ in range(count)]
        self.fill()

    def retire(self, count: int) -> None:
        """Take workers out of routing, idle ones first and of these the youngest; they end when their jobs have."""
        leaving = sorted(self.active, key=lambda worker: (worker.load > 0, -worker.id))[:count]
        self.active = [worker for worker in self.active if worker not in leaving]
        self._turn = 0
        self.retiring += leaving
        for worker in leaving:
            worker.retire()

    def give_up(self, slot: Slot) -> None:
        """Do without a slot whose application cannot be ended."""
        self.given_up = [slot for slot in self.given_up if slot.job is not None]
        self.given_up.append(slot)
        slot.worker.give_up(slot)

    def report_leftovers(self) -> None:
        """Count a request that left something behind, and log the first."""
        self.leftovers += 1
        if self.leftovers == 1:
            self._log.record(logging.WARNING, lambda: _LEFTOVERS)

    def close_stale_sessions(self) -> None:
        """Let idle slots close sessions that have been open or unused for too long."""
        if self.session_rules.limits.any:
            now = monotonic()
            for worker in self.active:
                worker.close_stale_sessions(now)

    def retired(self, worker: Worker) -> None:
        """The last slot of a retiring worker is gone."""
        self.retiring.remove(worker)
        self.keeper.changed()

    def snapshot(self, lane: str) -> tuple[WorkerSnapshot, ...]:
        """Return a picture of each worker."""
        return tuple(worker.snapshot(lane) for worker in self.all)
