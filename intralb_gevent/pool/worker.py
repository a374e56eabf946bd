"""A partition of the pool: one bounded queue and up to `max_concurrent_per_router` slots.

Decides which of its slots gets a job and which job a free slot gets next. It must not know how a worker is chosen:
the pool does that, and lets a free slot look at its siblings' queues.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from gevent import get_hub

from ..observe.snapshot import WorkerSnapshot
from .job import Job
from .line import Line
from .slot import Slot

if TYPE_CHECKING:
    from .workerpool import WorkerPool

__all__ = ["Worker"]

QUICK_SECONDS: Final = 0.001
"""Of a job that usually takes less, others' answers may await the end."""


class Worker:
    """One queue, its slots, and the count of jobs in both."""

    def __init__(self, pool: WorkerPool, id: int) -> None:
        self.pool = pool
        self.id = id
        self.options = pool.options
        self.hub: Any = get_hub()
        self.loop: Any = self.hub.loop
        self.queue = Line()
        self.ready: deque[Job] = deque()
        """Jobs that will have a slot at the hub's next round."""
        self.slots: list[Slot] = []
        self.load = 0
        """Jobs waiting in the queue plus jobs given to a slot."""
        self.retiring = False
        self._idle: list[Slot] = []

    def __repr__(self) -> str:
        retiring = " retiring" if self.retiring else ""
        return (
            f"<Worker {self.id}: {len(self.queue)} queued, {self.running} running, {len(self.slots)} slots{retiring}>"
        )

    @property
    def running(self) -> int:
        """Jobs that have a slot, or will have one at the hub's next round."""
        return self.load - len(self.queue)

    def run(self, job: Job) -> None:
        """Run the job at the hub's next round; the caller has seen that a slot is free for it.

        It is given a slot only then: of many short jobs that come at once, each finds the slot of the one before it
        free again, so few slots and sessions are in use, and these stay in the processor's caches.
        """
        job.worker = self
        self.load += 1
        job.ready_at = self.pool.turns.number
        self.ready.append(job)
        self.pool.turns.want(self)

    def dispatch(self) -> None:
        """Give the next ready job to the most recently used idle slot, or to a new one; called by the hub."""
        if not self.ready:
            return
        job = self.ready[0]
        if not self.pool.keeper.claim(job):
            return
        self.ready.popleft()
        if self._idle:
            slot = self._idle.pop()
        else:
            slot = Slot(self)
            self.slots.append(slot)
        if not 0.0 < job.route.usual.mean < QUICK_SECONDS:
            # Nobody's answer waits for one that may compute for long.
            self.pool.turns.turn_end.come()
        slot.give(job)

    def enqueue(self, job: Job) -> None:
        """Let the job wait; the caller has seen that there is room."""
        job.worker = self
        self.load += 1
        self.pool.queued += 1
        self.pool.queued_by_class[job.priority] += 1
        self.queue.append(job)
        if self.pool.fair_queue is not None:
            self.pool.fair_queue.append(job)

    def dequeue(self, priority: int) -> Job:
        """Take the job of a class that has waited longest out of the queue."""
        job = self.queue.pop(priority)
        self._left_queue(job)
        return job

    def take(self, job: Job) -> None:
        """Take this job out of the queue, wherever it stands there."""
        self.queue.remove(job)
        self._left_queue(job)

    def remove(self, job: Job) -> None:
        """Take a job that ends without a slot out of the worker."""
        if job in self.queue:
            self.take(job)
        else:
            self.load -= 1
            self.ready.remove(job)
            # The slot that it would have had is free for the next.
            self._go_on()
        self.leave_if_empty()

    def keeps_waiting(self, job: Job) -> bool:
        """Say whether a job waits in the queue, or for its slot for longer than one turn of the hub.

        The end of what a client sends is seen a turn after its request if both came together; then it has not left.
        """
        return job in self.queue or (job in self.ready and self.pool.turns.number - job.ready_at > 1)

    def _left_queue(self, job: Job) -> None:
        self.load -= 1
        self.pool.queued -= 1
        self.pool.queued_by_class[job.priority] -= 1
        if self.pool.fair_queue is not None:
            self.pool.fair_queue.remove(job)

    def released(self, slot: Slot) -> None:
        """A slot is free: the job that has waited longest in the pool is next."""
        self.load -= 1
        if self.retiring and (not self.queue or self.pool.at_limit):
            slot.retired = True
        else:
            self._idle.append(slot)
        self._go_on()
        self.pool.keeper.changed()

    def give_up(self, slot: Slot) -> None:
        """Do without a slot whose application cannot be ended; there is room for another."""
        slot.given_up = True
        self.slots.remove(slot)
        self.load -= 1
        self._go_on()
        self.pool.keeper.changed()
        self.leave_if_empty()

    def _go_on(self) -> None:
        if not self.pool.queued:
            return
        job = self.pool.next_for(self)
        if job is not None:
            self.run(job)
        elif self.retiring:
            # What runs here counts where only so many may run: now one more may elsewhere.
            self.pool.fill()

    def close_stale_sessions(self, now: float) -> None:
        """Let idle slots close sessions that have been open or unused for too long; meanwhile they count as busy."""
        stale = [slot for slot in self._idle if slot.session.stale(now)]
        # The others are for jobs that are ready, which would have to have new ones: more sessions than there may be.
        for slot in stale[: max(0, self.options.max_concurrent_per_router - self.load)]:
            self._idle.remove(slot)
            self.load += 1
            slot.close_session()

    def retire(self) -> None:
        """Take no new jobs; slots end as they fall idle, what waits is still run here or stolen."""
        self.retiring = True
        for slot in self._idle:
            slot.retire()
        self._idle.clear()
        self.leave_if_empty()

    def ended(self, slot: Slot) -> None:
        """A retired slot has closed its session and is gone."""
        self.slots.remove(slot)
        self.leave_if_empty()

    def leave_if_empty(self) -> None:
        """Be gone, if this worker retires and has nothing left: its slots have ended, its jobs are done or stolen."""
        if self.retiring and not self.slots and not self.load:
            self.pool.retired(self)

    def snapshot(self, lane: str) -> WorkerSnapshot:
        """Return a picture of this worker; a slot whose job has ended but still unwinds is not running."""
        running = len(self.ready) + sum(slot.job is not None and slot.job.ended is None for slot in self.slots)
        sessions = sum(slot.session.opened for slot in self.slots)
        return WorkerSnapshot(self.id, lane, len(self.queue), running, len(self.slots), sessions, self.retiring)
