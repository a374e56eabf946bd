"""The pool of a lane's workers: it assigns jobs to workers, starts waiting jobs, and adds and retires workers.

`policy/routing.py` chooses the worker for a new job, and `queueorder.py` chooses the queued job to start next.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..config.options import Options
from ..hub.dispatch import DispatchQueue
from ..hub.log import HubLog
from ..hub.loghandlers import LOGGER
from ..observe.snapshot import WorkerSnapshot
from ..policy.fairness import Clients
from ..policy.priority import capacity_of
from ..policy.routing import least_busy
from ..priority import Priority
from .job import STREAM_LASTS_SECONDS, Job
from .longwaits import LongWaits
from .queueorder import FairOrder, QueueOrder
from .queues import Full
from .session import SessionRules
from .slot import Slot
from .worker import Worker

if TYPE_CHECKING:
    from .lane import Lane

__all__ = ["WorkerPool"]

_LEFTOVERS = (
    "a request left something behind that can still interrupt its greenlet, such as a gevent.Timeout that was not "
    "cancelled. Its slot takes a fresh greenlet, and so loses the connections in its thread-locals. "
    "Cancel timeouts and timers in a finally block. This is logged once"
)


class WorkerPool:
    """All workers of a lane: active workers, which receive jobs, and retiring workers, which only finish their jobs."""

    def __init__(self, options: Options, lane: Lane) -> None:
        self.options = options
        self.lane = lane
        self._slots: int = options.max_concurrent_per_router
        """Maximum number of slots of each worker."""
        self.session_rules = SessionRules(options)
        self.active: list[Worker] = []
        self.retiring: list[Worker] = []
        self.order = QueueOrder()
        """The order in which the jobs in all queues are started, and the number of these jobs."""
        self.limit: int | None = None
        """Limit on concurrently running jobs, excluding long streams; None unless it is below the number of slots."""
        self.streams: set[Job] = set()
        """Jobs whose responses are being streamed."""
        self.most_streams = max(1, options.max_workers * options.max_concurrent_per_router * 3 // 4)
        """Maximum number of streams if `max_streams` is not set: three quarters of the slots."""
        self.long_streams = 0
        """Number of responses that have been streamed for a long time."""
        self.long_waits = LongWaits()
        self.loop_seconds = 0.0
        """Total time for which the jobs have kept the event loop busy, as far as `looptime.py` has measured it."""
        self.given_up: list[Slot] = []
        """Abandoned slots; without this reference, garbage collection would kill their greenlets."""
        self.dispatch_queue = DispatchQueue(lane.context.flush_queue)
        self.leftovers = 0
        """Number of requests that left an object behind that could have affected the next request in the slot."""
        self._log = HubLog(LOGGER.log)
        self._next_index = 0

    def __repr__(self) -> str:
        return f"<WorkerPool {len(self.active)} active, {len(self.retiring)} retiring, {self.queued} queued>"

    # Counts.

    @property
    def queued(self) -> int:
        """Number of jobs in all queues."""
        return self.order.count

    @property
    def all(self) -> list[Worker]:
        """Active and retiring workers."""
        return self.active + self.retiring

    @property
    def slots(self) -> list[Slot]:
        """All slots that have been created and have not ended."""
        return [slot for worker in self.all for slot in worker.slots]

    @property
    def waiting(self) -> list[Job]:
        """All jobs without a slot."""
        return [job for worker in self.all for job in (*worker.ready, *worker.queued)]

    @property
    def jobs(self) -> list[Job]:
        """All jobs that have not ended."""
        return self.waiting + self._running_jobs()

    @property
    def load(self) -> int:
        """Number of jobs of the active workers."""
        return sum(worker.load for worker in self.active)

    @property
    def running(self) -> int:
        """Number of jobs that have a slot, or will have one in the next batch."""
        return sum(worker.running for worker in self.all)

    @property
    def total_slots(self) -> int:
        """Number of slots of the active workers, created or not."""
        return len(self.active) * self.options.max_concurrent_per_router

    @property
    def places(self) -> int:
        """Capacity of the active workers: the number of jobs that may run and wait."""
        running = self.total_slots
        if self.limit is not None:
            # Jobs that retiring workers still run count towards the limit.
            limit = min(running, self.limit + self.lasting)
            running = max(0, limit - sum(worker.running for worker in self.retiring))
        return running + len(self.active) * self.options.queue_size

    @property
    def may_run(self) -> int:
        """Maximum number of concurrently running jobs, excluding long streams."""
        slots = max(1, self.total_slots - self.lasting)
        return slots if self.limit is None else min(self.limit, slots)

    @property
    def free(self) -> int:
        """Number of further jobs that could start now."""
        # Use a loop, which is faster than sum(): with several processes, this number is needed at every read of a
        # socket.
        free = self.total_slots
        for worker in self.active:
            free -= worker.load
        if self.limit is not None:
            free = min(free, self.limit + self.lasting - self.running)
        return max(0, free)

    @property
    def at_limit(self) -> bool:
        """Whether the limit allows no further job to run, even if there are free slots."""
        return self.limit is not None and self.running - self.lasting >= self.limit

    @property
    def lasting(self) -> int:
        """Number of long streams and long waits, which do not count towards `limit`, because they hardly load the event
        loop."""
        return self.long_streams + self.long_waits.count

    def count_lasting(self, now: float) -> None:
        """Count the long streams and, while the limit has an effect, the long waits; called at every tick."""
        begun_by = now - STREAM_LASTS_SECONDS
        self.long_streams = sum(job.streams_since is not None and job.streams_since <= begun_by for job in self.streams)
        if self.limit is not None:
            self.long_waits.review(self._running_jobs(), now)

    def _running_jobs(self) -> list[Job]:
        return [slot.job for slot in self.slots if slot.job is not None and slot.job.ended is None]

    def waiting_before(self, priority: Priority) -> int:
        """Return the number of waiting jobs that would start before a new job of this priority."""
        waiting = self.ready
        # Use a loop, because each rejection calls this method, and a compiled loop is faster than sum().
        for queued in self.order.by_class[: priority + 1]:
            waiting += queued
        return waiting

    @property
    def ready(self) -> int:
        """Number of jobs that will have a slot in the next batch."""
        return sum(len(worker.ready) for worker in self.active) + sum(len(worker.ready) for worker in self.retiring)

    @property
    def waiting_count(self) -> int:
        """Approximate number of jobs without a slot; a job that was removed just now may still count."""
        return self.order.count + len(self.dispatch_queue.waiting)

    @property
    def has_backlog(self) -> bool:
        """Whether more than one job waits."""
        return self.queued + self.ready > 1

    def queue_age(self, now: float, priority: Priority | None = None) -> float:
        """Return how long the oldest queued job (of `priority`, if set) has waited, in seconds; 0 if there is none."""
        classes = Priority if priority is None else (priority,)
        firsts = (worker.queued.first(c) for worker in self.all for c in classes)
        return max((now - job.arrived for job in firsts if job is not None), default=0.0)

    def longest_wait(self, now: float) -> float:
        """Return how long the oldest job without a slot has waited, in seconds; 0 if there is none."""
        ready = max((now - worker.ready[0].arrived for worker in self.all if worker.ready), default=0.0)
        return max(ready, self.queue_age(now))

    def newest_below(self, priority: Priority) -> Job | None:
        """Return the newest queued job of the lowest priority below `priority` that has queued jobs, or None."""
        for lower in reversed(Priority):
            if lower <= priority:
                break
            if self.order.by_class[lower]:
                lasts = (worker.queued.last(lower) for worker in self.all)
                return max((job for job in lasts if job is not None), key=lambda job: job.arrived)
        return None

    # Assignment of jobs.

    def least_busy(self) -> Worker:
        """Return a worker with the fewest jobs; ties are broken round-robin."""
        workers, index = self.active, self._next_index
        # No worker has fewer jobs than an idle one.
        if workers[index].load:
            index = least_busy([worker.load for worker in workers], index)
        self._next_index = (index + 1) % len(workers)
        return workers[index]

    def bring(self, job: Job) -> bool:
        """Run a job, or enqueue it if there is no free slot; return False if the queue is full."""
        worker = self.least_busy()
        if self.limit is not None and self.at_limit:
            worker = min(self.active, key=lambda worker: len(worker.queued))
        elif worker.load < self._slots:
            worker.run(job)
            return True
        try:
            worker.queue.put_nowait(job)
        except Full:
            return False
        worker.enqueued(job)
        return True

    def expects_long_wait(self, environ: dict[str, Any], priority: Priority, highest: Priority, now: float) -> bool:
        """Return whether a request may run beyond the limit, because it will probably be a long wait.

        `highest` is the highest priority that has arrived so far, for which slots are kept free.
        """
        if not (self.at_limit and self.long_waits.expects(environ, now)):
            return False
        return self.running < capacity_of(self.total_slots, priority, highest)

    def run_long_wait(self, job: Job, now: float) -> bool:
        """Run a new or queued job, even beyond the limit, if a slot is free; return whether the job runs."""
        worker = min(self.active, key=lambda worker: worker.running)
        if worker.running >= self._slots:
            return False
        if job.worker is not None:
            job.worker.take(job)
            job.worker.leave_if_empty()
        self.long_waits.add_expected(job, now)
        worker.run(job)
        return True

    def run_queued_long_waits(self, highest: Priority, now: float) -> None:
        """Run the queued jobs that may run beyond the limit; `highest` is the argument of `expects_long_wait`."""
        if self.at_limit and self.queued:
            for job in [job for worker in self.all for job in worker.queued]:
                if self.expects_long_wait(job.environ, job.priority, highest, now):
                    self.run_long_wait(job, now)

    def next_for(self, worker: Worker) -> Job | None:
        """Remove the job that starts next from its worker's queue, and return the job; return None if no job may run.

        The job will run in a free slot of `worker`.
        """
        if self.at_limit or not self.order.count:
            return None
        if worker.retiring and not worker.queued:
            return None
        # Compute the limit only for fair queueing; otherwise, `next` ignores it.
        limit = 0 if self.order.fair is None else self.may_run
        job = self.order.next([worker.queued for worker in self.all], limit)
        if job is not None and (owner := job.worker) is not None:
            owner.take(job)
            if owner is not worker:
                owner.leave_if_empty()
                self.lane.stats.stolen += 1
        return job

    def enable_fair_queue(self, clients: Clients) -> None:
        """Enable fair queueing between clients; the queued jobs already have their `client` set."""
        self.order.fair = FairOrder(clients, (job for worker in self.all for job in worker.queued))

    def disable_fair_queue(self) -> None:
        """Return to starting the jobs of all clients in the order of their arrival."""
        self.order.fair = None

    def fill(self) -> None:
        """Start waiting jobs in free slots."""
        while self.order.count and self.active and not self.at_limit:
            worker = min(self.active, key=lambda worker: worker.running)
            if worker.running >= self.options.max_concurrent_per_router:
                break
            job = self.next_for(worker)
            if job is not None:
                worker.run(job)

    # Number of workers.

    def add(self, count: int) -> None:
        """Add workers; jobs that are queued in other workers start in the slots of the new workers."""
        self.active += [Worker(self, next(self.lane.context.worker_ids)) for _ in range(count)]
        self.fill()

    def retire(self, count: int) -> None:
        """Retire `count` workers: idle workers before busy workers, and newer workers before older workers.

        A retiring worker leaves the pool when its jobs have ended.
        """
        leaving = sorted(self.active, key=lambda worker: (worker.load > 0, -worker.id))[:count]
        self.active = [worker for worker in self.active if worker not in leaving]
        self._next_index = 0
        self.retiring += leaving
        for worker in leaving:
            worker.retire()

    def abandon_slot(self, slot: Slot) -> None:
        """Abandon a slot whose application cannot be ended."""
        self.given_up = [slot for slot in self.given_up if slot.job is not None]
        self.given_up.append(slot)
        slot.worker.abandon_slot(slot)

    def report_leftovers(self) -> None:
        """Count a request that left an object behind that could affect the next request; log the first such request."""
        self.leftovers += 1
        if self.leftovers == 1:
            self._log.record(logging.WARNING, lambda: _LEFTOVERS)

    def close_stale_sessions(self) -> None:
        """Have idle slots close sessions that have been open or unused for too long."""
        if self.session_rules.limits.any:
            now = monotonic()
            for worker in self.active:
                worker.close_stale_sessions(now)

    def retired(self, worker: Worker) -> None:
        """Remove a retiring worker that has no slot and no job left."""
        self.retiring.remove(worker)
        self.lane.context.changed()

    def snapshot(self, lane: str) -> tuple[WorkerSnapshot, ...]:
        """Return a snapshot of each worker."""
        return tuple(worker.snapshot(lane) for worker in self.all)
