"""Workers of their own for some of the requests, and who among these gets a place and a turn.

Decides nothing by itself: it tells the policies what is going on, and does what follows. A balancer has one lane for
most requests, and one more for each route or mounted application with its own. It must not know deadlines, outcomes, or
how a job is answered: the keeper of the jobs does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, Final

from ..observe.snapshot import LaneSnapshot
from ..observe.stats import Stats
from ..options import Options
from ..policy.answers import EVICTED, NO_TIME, OVERLOADED, QUEUE_FULL, TOO_MANY_OF_CLIENT, Answer
from ..policy.codel import QueueDelay
from ..policy.excess import Excess
from ..policy.fairness import Clients
from ..policy.limiters import Limiter, limiter_named
from ..policy.priority import places
from ..policy.servicetime import ServiceTime
from ..priority import Priority
from .job import Job, JobKeeper
from .origin import client_key
from .sizing import Sizing
from .window import WindowCount
from .workerpool import WorkerPool

__all__ = ["Lane"]

_CRITICAL: Final = Priority.CRITICAL
"""Looked up once, for an enumeration's member takes its time."""


class Lane:
    """A pool of workers, with what is known of its jobs and what decides about them."""

    def __init__(self, name: str, options: Options, keeper: JobKeeper, ids: Iterator[int]) -> None:
        self.name = name
        self.options = options
        self.stats = Stats()
        self._slots: int = options.max_concurrent_per_router
        """Of each worker."""
        self.pool = WorkerPool(options, keeper, ids)
        self.service = ServiceTime()
        """How long its jobs usually run."""
        self._excess = Excess()
        self._keeper = keeper
        self._delays = tuple(QueueDelay() for _ in Priority)
        """By class: a queue of what may wait can stand while what matters more has its turn at once."""
        self.sizing = Sizing(self.pool, self.stats, self.service, self._delays)
        self._limiter: Limiter = limiter_named(options.limiter, options.first_workers * self._slots)
        self._clients: Clients | None = None
        """Who holds what, from the first refusal on, and for some time after the last."""
        self._client_key = client_key(options.client_key)
        self._refused = False
        """Whether any had no place since the last review."""
        self._refused_at = 0.0
        self._highest = self._lowest = Priority.CRITICAL
        """Of the classes that have come so far."""
        self.calm = True
        """Whether a job may have the place that it finds, without a further look."""
        self._window = WindowCount(self.stats)

    def __repr__(self) -> str:
        return f"<Lane {self.name or 'of all others'}: {self.pool!r} {self.stats!r}>"

    @property
    def _shared(self) -> bool:
        """Whether several clients take turns."""
        return self._clients is not None and self._clients.several

    # A job comes.

    def admit(self, job: Job, now: float) -> Answer | None:
        """Bring a job to a worker; return what to answer instead if there is no place for it. Never waits."""
        pool = self.pool
        if self.calm and job.priority is _CRITICAL:
            worker = pool.least_busy()
            if worker.load < self._slots:
                job.move("queued")
                worker.run(job)
                return None
            if worker.load < self._slots + self.options.queue_size:
                job.move("queued")
                worker.enqueue(job)
                return None
        return self._admit_among_others(job, now)

    def _admit_among_others(self, job: Job, now: float) -> Answer | None:
        priority = job.priority
        if not self._highest <= priority <= self._lowest:
            self._highest, self._lowest = min(self._highest, priority), max(self._lowest, priority)
        refusal = self._refusal(priority)
        if refusal is not None and self.sizing.may_grow and self._make_room():
            refusal = self._refusal(priority)
        if refusal is not None and (refusal := self._press(job, refusal, now)) is not None:
            # Until the next review those that come are refused before they are made jobs, unless there is a place.
            self.calm = False
            return refusal
        job.move("queued")
        if self._clients is not None:
            self._count(job, self._clients, now)
        self.pool.bring(job)
        return None

    def _refusal(self, priority: Priority) -> Answer | None:
        """Return why one more job of a class has no place, or None if it has one."""
        pool, delay = self.pool, self._delays[priority]
        if pool.load >= places(pool.places, priority, self._highest):
            return QUEUE_FULL
        if delay.standing and delay.full(pool.waiting_before(priority)):
            return OVERLOADED
        return None

    def refusal_at_once(self, environ: dict[str, Any], priority: Priority) -> Answer | None:
        """Return why a request has no place now, before anything is made for it; None if `admit` has to decide.

        It has to where there is a place, or the pool may grow, or another may have to make room.
        """
        refusal = self._refusal(priority)
        if refusal is None or self.sizing.may_grow:
            return None
        return self._without_claim(environ, priority, refusal)

    def _make_room(self) -> bool:
        if not self.sizing.make_room():
            return False
        self._resized()
        return True

    # More come than there is room for.

    def _without_claim(self, environ: dict[str, Any], priority: Priority, refusal: Answer) -> Answer | None:
        """Return what to answer a request that has no place; None if it may have a claim to that of another.

        Nobody is looked at for nothing: where there are no classes and no other clients, a refusal is cheap.
        """
        self._refused = True
        if self._client_key is not None:
            clients = self._clients or self._begin_counting(monotonic())
            # Without any job held there are no others, whoever this is.
            if clients.active and clients.others(key := self._client_key(environ)):
                if not clients.may_hold(key, min(self._limiter.limit, self.pool.slots_in_all)):
                    return TOO_MANY_OF_CLIENT
                if clients.makes_room(key, priority, monotonic()) is not None:
                    return None
        return None if refusal is QUEUE_FULL and self._lowest > priority else refusal

    def _press(self, job: Job, refusal: Answer, now: float) -> Answer | None:
        """Find a place for a job by taking it from another; return what to answer if it has no claim to one."""
        answer = self._without_claim(job.environ, job.priority, refusal)
        if answer is not None:
            return answer
        victim = self.pool.newest_below(job.priority) if refusal is QUEUE_FULL else None
        victim = victim or self._of_client(job, now)
        if victim is None:
            return refusal
        self._keeper.refuse(victim, "shed", EVICTED)
        return None

    def _of_client(self, job: Job, now: float) -> Job | None:
        """Return the newest waiting job, of the same class, of the client that makes room for this one, if any does."""
        if self._clients is None or self._client_key is None:
            return None
        priority, own = job.priority, self._client_key(job.environ)
        key = self._clients.makes_room(own, priority, now) if self._clients.others(own) else None
        if key is None:
            return None
        waiting = (job for job in self.pool.waiting if job.priority == priority and job.client == key)
        return max(waiting, key=lambda job: job.arrived, default=None)

    def _begin_counting(self, now: float) -> Clients:
        clients = self._clients = Clients(now)
        for job in self.pool.jobs:
            self._count(job, clients, now)
            if job.state == "running":
                clients.begin(job.client, job.priority)
        self.pool.take_turns(clients)
        self._reconsider()
        return clients

    def _count(self, job: Job, clients: Clients, now: float) -> None:
        job.client = self._client_key(job.environ) if self._client_key is not None else None
        job.counted_by = clients
        clients.admit(job.client, job.priority, now)

    # A job's turn comes, and its end.

    def too_late(self, job: Job, now: float) -> Answer | None:
        """Return what to answer a job that has waited so long that others should have its turn."""
        delay = self._delays[job.priority]
        if now >= delay.ends:
            self._judge(delay, now)
        # Whether others wait, and for how long, is asked only where it matters.
        in_order = not (self._shared or self.pool.newest_first)
        oldest = 0.0 if in_order else self.pool.queue_age(now, job.priority)
        if delay.sheds(now, now - job.arrived, delay.standing and self.pool.several_wait, oldest):
            return OVERLOADED
        if job.route.usual.suffices(job.deadline.at - now, job.deadline.whole):
            return None
        return NO_TIME

    def _judge(self, delay: QueueDelay, now: float, oldest: float = 0.0) -> None:
        was = delay.standing
        pool = self.pool
        delay.judge(now, self.service, pool.executing, oldest, slots_free=not pool.queued, excess=self._excess.ratio)
        if delay.standing != was:
            self._reconsider()

    def ended(self, run_time: float) -> None:
        """A job has run to its end."""
        self.stats.run_time.add(run_time)
        self.service.add(run_time)
        window = self._window
        if run_time < window.least_run_time:
            window.least_run_time = run_time

    # Now and then.

    def begin(self, busy: Callable[[float], float]) -> None:
        """The lane begins to serve; `busy` tells for how many seconds the hub has been busy until a moment."""
        self.sizing.begin(busy)
        self.pool.add(self.options.first_workers)
        self._resized()

    def sample(self) -> None:
        """Take note of how many jobs run, some times in each window."""
        self._window.sample(self.pool.running)

    def review(self, now: float, least_lag: float | None) -> None:
        """Look at everything, as at every tick; `least_lag` is how late the hub was at best since the last one."""
        pool = self.pool
        pool.close_stale_sessions()
        self.sizing.review()
        window = self._window.over(now, least_lag)
        self._limiter.observe(window)
        self._excess.add(window.ended, window.shed)
        for priority, delay in zip(Priority, self._delays, strict=True):
            if now >= delay.ends:
                self._judge(delay, now, pool.queue_age(now, priority))
            else:
                delay.adapt(self.service, pool.executing, slots_free=not pool.queued, excess=self._excess.ratio)
            if delay.standing:
                self._shorten(priority, delay, now)
        self._resized()
        self._forget_clients(now)

    def _shorten(self, priority: Priority, delay: QueueDelay, now: float) -> None:
        """Shed what waited when the queue was found to stand, but for as many as soon have their turn."""
        newest = self.pool.newest_first
        waiting = [job for job in self.pool.waiting if job.priority == priority]
        waiting.sort(key=lambda job: job.arrived, reverse=newest)
        if self.pool.fair_queue is not None and self._shared:
            nearest = self.pool.fair_queue.nearest(priority, delay.room, newest)
            waiting = nearest + [job for job in waiting if job not in nearest]
        kept = 0
        for job in waiting:
            waited = now - job.arrived
            late = delay.overdue(now, waited) and self.pool.several_wait
            if late or (kept >= delay.room and delay.found(now, waited)):
                self._keeper.refuse(job, "shed", OVERLOADED)
            else:
                kept += 1

    def _forget_clients(self, now: float) -> None:
        if self._refused:
            self._refused, self._refused_at = False, now
        if self._clients is not None:
            self._clients.forget(now)
            if now - self._refused_at > Clients.MEMORY_SECONDS:
                self._clients = self.pool.fair_queue = None
                self._reconsider()

    def resize(self, workers: int) -> None:
        """Have so many workers from now on."""
        self.sizing.change(workers - len(self.pool.active))
        self._resized()

    def _resized(self) -> None:
        """There are more workers now, or fewer, or more jobs may run: let the others know."""
        pool, limiter = self.pool, self._limiter
        limiter.resize(max(1, pool.slots_in_all))
        pool.limit = limiter.limit if limiter.limit < pool.slots_in_all else None
        self._reconsider()
        pool.fill()

    def _reconsider(self) -> None:
        """Find out whether the short way in is open: nobody is told apart or held back."""
        standing = any(delay.standing for delay in self._delays)
        reserved = self._highest < Priority.CRITICAL
        self.calm = self.pool.limit is None and self._clients is None and not standing and not reserved

    def snapshot(self) -> LaneSnapshot:
        """Return a picture of the lane."""
        standing = next((p.name.lower() for p, delay in zip(Priority, self._delays, strict=True) if delay.standing), "")
        return LaneSnapshot(
            name=self.name,
            limit=min(self._limiter.limit, self.pool.slots_in_all),
            standing_queue=standing,
            clients=0 if self._clients is None else self._clients.active,
            workers=len(self.pool.active),
            most_workers=self.options.max_workers,
        )
