"""A worker: a partition of the pool with one bounded queue and up to `max_concurrent_per_router` slots.

A worker chooses the slot for a job. The pool chooses the worker, and starts jobs of any worker's queue in free slots.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from gevent import get_hub

from ..observe.snapshot import WorkerSnapshot
from .job import Job
from .queues import JobQueue
from .slot import Slot

if TYPE_CHECKING:
    from .workerpool import WorkerPool

__all__ = ["Worker"]

QUICK_SECONDS: Final = 0.001
"""Mean run time, in seconds, below which a job counts as quick; deferred responses are flushed before any other job."""


class Worker:
    """A bounded queue of jobs, and the slots that run the jobs."""

    def __init__(self, pool: WorkerPool, id: int) -> None:
        self.pool = pool
        self.lane = pool.lane
        self.context = pool.lane.context
        self.id = id
        self.options = pool.options
        self.hub: Any = get_hub()
        self.loop: Any = self.hub.loop
        self.queue = JobQueue(pool.options.queue_size, pool.order)
        self.queued = self.queue.jobs
        """The jobs in the queue."""
        self.ready: deque[Job] = deque()
        """Jobs that will get a slot in the next batch."""
        self.slots: list[Slot] = []
        self.load = 0
        """Number of jobs in the queue, ready for a slot, or in a slot."""
        self.retiring = False
        self._idle: list[Slot] = []

    def __repr__(self) -> str:
        retiring = " retiring" if self.retiring else ""
        return (
            f"<Worker {self.id}: {len(self.queued)} queued, {self.running} running, {len(self.slots)} slots{retiring}>"
        )

    @property
    def running(self) -> int:
        """Number of jobs that have a slot, or will get one in the next batch."""
        return self.load - len(self.queued)

    def run(self, job: Job) -> None:
        """Run the job in the next batch; the caller has checked that a slot is free for it.

        The job gets its slot only when the batch runs. If many short jobs arrive together, each can reuse the previous
        job's slot. So few slots and sessions are in use, and they stay in the processor's caches.
        """
        job.move("ready")
        job.worker = self
        self.load += 1
        job.ready_at = self.pool.dispatch_queue.number
        self.ready.append(job)
        self.pool.dispatch_queue.schedule(self)

    def dispatch(self) -> None:
        """Give the next ready job to the most recently used idle slot, or to a new slot; called by the hub."""
        if not self.ready:
            return
        job = self.ready[0]
        if not self.lane.claim(job):
            return
        self.ready.popleft()
        if self._idle:
            slot = self._idle.pop()
        else:
            slot = Slot(self)
            self.slots.append(slot)
        if not 0.0 < job.route.usual.mean < QUICK_SECONDS:
            # Do not hold back finished responses behind a job that may compute for a long time.
            self.context.flush_queue.flush()
        slot.give(job)

    def enqueued(self, job: Job) -> None:
        """Count a job that was put into the queue."""
        job.move("queued")
        job.worker = self
        self.load += 1

    def take(self, job: Job) -> None:
        """Remove a job from the queue, whatever its position."""
        self.queued.remove(job)
        self.load -= 1

    def remove(self, job: Job) -> None:
        """Remove a job that ends before it has a slot."""
        if job.state == "queued":
            self.take(job)
        else:
            self.load -= 1
            self.ready.remove(job)
            # The slot reserved for this job is free for the next job.
            self._go_on()
        if self.retiring:
            self.retire()

    def still_waiting(self, job: Job) -> bool:
        """Return whether a waiting job is in the queue, or has been ready for more than one batch.

        If a client shuts down its sending side right after the request, the end of input is read one iteration of the
        event loop later. A job that has just become ready must not be dropped then, because the client has not left.
        """
        return job.state == "queued" or self.pool.dispatch_queue.number - job.ready_at > 1

    def released(self, slot: Slot) -> None:
        """Mark a slot whose job has ended as idle or retired, and run the next waiting job."""
        self.load -= 1
        if self.retiring and (not self.queued or self.pool.at_limit):
            slot.retired = True
        else:
            self._idle.append(slot)
        self._go_on()
        if self.context.changed_event is not None:
            self.context.changed()

    def abandon_slot(self, slot: Slot) -> None:
        """Remove a slot whose application still runs, so that the worker can create another slot."""
        slot.given_up = True
        self.slots.remove(slot)
        self.load -= 1
        self._go_on()
        self.context.changed()
        self.leave_if_empty()

    def _go_on(self) -> None:
        if not self.pool.order.count:
            return
        job = self.pool.next_for(self)
        if job is not None:
            self.run(job)
        elif self.retiring:
            # The ended job counted towards the concurrency limit, so another worker may now run one more job.
            self.pool.fill()

    def close_stale_sessions(self, now: float) -> None:
        """Have idle slots, which then count as busy, close sessions that have been open or unused for too long."""
        stale = [slot for slot in self._idle if slot.session.stale(now)]
        # Leave enough idle slots for the ready jobs, because new slots would open sessions beyond the maximum.
        for slot in stale[: max(0, self.options.max_concurrent_per_router - self.load)]:
            self._idle.remove(slot)
            self.load += 1
            slot.close_session()

    def retire(self) -> None:
        """Accept no new jobs, and end the idle slots that no ready job needs.

        Queued jobs still run in this worker or in another worker.
        """
        self.retiring, needed = True, len(self.ready)
        for slot in self._idle[needed:]:
            slot.retire()
        del self._idle[needed:]
        self.leave_if_empty()

    def ended(self, slot: Slot) -> None:
        """Remove a retired slot that has closed its session and ended."""
        self.slots.remove(slot)
        self.leave_if_empty()

    def leave_if_empty(self) -> None:
        """Leave the pool if this worker is retiring, all its slots have ended, and it has no jobs left."""
        if self.retiring and not self.slots and not self.load:
            self.pool.retired(self)

    def snapshot(self, lane: str) -> WorkerSnapshot:
        """Return a snapshot of this worker; a slot that still unwinds an ended job does not count as running."""
        running = len(self.ready) + sum(slot.job is not None and slot.job.ended is None for slot in self.slots)
        sessions = sum(slot.session.opened for slot in self.slots)
        return WorkerSnapshot(self.id, lane, len(self.queued), running, len(self.slots), sessions, self.retiring)
