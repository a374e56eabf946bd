"""Workers of their own for some of the requests, and who among these gets a place and a turn.

Decides nothing by itself: it tells the policies what is going on, and does what follows. A balancer has one lane for
most requests, and one more for each route or mounted application with its own. It must not know deadlines, outcomes, or
how a job is answered: the keeper of the jobs does.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any, Final

from ..observe.snapshot import LaneSnapshot
from ..observe.stats import Stats
from ..options import Options
from ..policy.admission import Admission, short_wait
from ..policy.answers import EVICTED, NO_TIME, OVERLOADED, QUEUE_FULL, TOO_MANY_OF_CLIENT, Answer
from ..policy.excess import Excess
from ..policy.fairness import Clients, in_rotation
from ..policy.limiters import Limiter, limiter_named
from ..policy.priority import places
from ..policy.servicetime import ServiceTime
from ..policy.throughput import Throughput
from ..priority import Priority
from ..stdlib import monotonic
from .hublog import HubLog
from .job import Job, JobKeeper
from .loghandlers import LOGGER
from .origin import client_key, is_of_crowd
from .sizing import Sizing
from .window import WindowCount
from .workerpool import WorkerPool

__all__ = ["Lane"]

_CRITICAL: Final = Priority.CRITICAL
"""Looked up once, for an enumeration's member takes its time."""


_OVERLOADED: Final = (
    "overloaded{}: a request of class {} {}; until the arrivals can be served again, the queue is kept short and "
    "requests beyond it are rejected"
)
_LONG_WAIT: Final = "would wait {wait:.1f} s, and max_wait_seconds is {max_wait:g}"
_FULL: Final = "found all {places} places taken too often (slots and queue_size)"
_NO_LONGER: Final = "no longer overloaded{}: the arrivals can be served again"


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
        self._throughput = Throughput()
        self._admissions: dict[float, tuple[Admission, ...]] = {}
        """By how long a request may wait, then by class: one can be overloaded while those above it are not."""
        self.sizing = Sizing(self.pool, self.stats, self.service, self._throughput, self._grown)
        self._limiter: Limiter = limiter_named(options.limiter, options.first_workers * self._slots)
        self._clients: Clients | None = None
        """Who holds what, from the first refusal on, and for some time after the last."""
        self._client_key = client_key(options.client_key)
        self._crowds = options.client_key == "address" and not options.trusted_proxies
        """Whether an address may stand for many clients, as that of a proxy which is not trusted."""
        self._refused = False
        """Whether any had no place since the last review."""
        self._refused_at = 0.0
        self._highest = self._lowest = Priority.CRITICAL
        """Of the classes that have come so far."""
        self.calm = True
        """Whether a job may have the place that it finds, without a further look."""
        self._calm_limit = Admission.NO_LIMIT
        """As long as fewer wait, none of them waits too long."""
        self._window = WindowCount(self.stats)
        self._busy_before = 0.0
        """For how long the hub had been busy at the last review."""
        self._log = HubLog(LOGGER.log)

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
        ahead = pool.waiting_count
        if self.calm and job.priority is _CRITICAL and ahead < self._calm_limit and self._in_time(job, ahead, now):
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
        admission = job.route.admissions[priority]
        admission.asked += 1
        if admission.max_wait < math.inf and not self._in_time(job, self.pool.waiting_before(priority), now):
            return NO_TIME
        refusal = self._refusal(admission, priority)
        if refusal is not None and self.sizing.may_grow and self._make_room():
            refusal = self._refusal(admission, priority)
        if refusal is OVERLOADED and not admission.overloaded:
            self._enter(admission, priority, now, _LONG_WAIT)
        if refusal is not None and (refusal := self._press(job, refusal, now)) is not None:
            # Until the next review those that come are refused before they are made jobs, unless there is a place.
            self.calm = False
            self._count_refusal(admission, (job.environ.get("REMOTE_ADDR"), job.environ.get("REMOTE_PORT")))
            return refusal
        job.move("queued")
        if self._clients is not None:
            self._count(job, self._clients, now)
        self.pool.bring(job)
        return None

    def _in_time(self, job: Job, ahead: int, now: float) -> bool:
        """Say whether a job with `ahead` jobs queued before it will start before its deadline."""
        left = job.deadline.at - now
        if ahead < Admission.LEAST_LIMIT or self._throughput.wait(ahead) < left:
            return True
        if left <= job.route.admissions[job.priority].max_wait:
            return False
        # A long wait needs evidence here too: the first requests after a start may be slow.
        return not Admission.plausible(ahead, self.pool.longest_wait(now), left)

    def _refusal(self, admission: Admission, priority: Priority) -> Answer | None:
        """Return why one more job of a class has no place, or None if it has one."""
        pool = self.pool
        if pool.load >= places(pool.places, priority, self._highest):
            return QUEUE_FULL
        ahead = pool.waiting_before(priority)
        if ahead >= admission.limit and admission.full(ahead, pool.longest_wait(monotonic())):
            return OVERLOADED
        return None

    def refusal_at_once(
        self, environ: dict[str, Any], admission: Admission, priority: Priority, asker: Hashable
    ) -> Answer | None:
        """Return why a request has no place now, before anything is made for it; None if `admit` has to decide.

        It has to where there is a place, or the pool may grow, or another may have to make room. `asker` is the same
        for each request of a connection.
        """
        refusal = self._refusal(admission, priority)
        if refusal is None or self.sizing.may_grow or (refusal is OVERLOADED and not admission.overloaded):
            return None
        answer = self._without_claim(environ, priority, refusal)
        if answer is not None:
            admission.asked += 1
            self._count_refusal(admission, asker)
        return answer

    def _count_refusal(self, admission: Admission, asker: Hashable) -> None:
        admission.refused += 1
        if admission.counts_connections:
            admission.count(asker)

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
                may_hold = clients.may_hold(key, self._may_run) or (self._crowds and is_of_crowd(environ))
                if not may_hold:
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
        admission = job.route.admissions[job.priority]
        if admission.overdue(now - job.arrived) and self.pool.several_wait:
            return OVERLOADED
        if admission.max_wait < math.inf and not job.route.usual.suffices(job.deadline.at - now, job.deadline.whole):
            return NO_TIME
        admission.begun += 1
        return None

    def ended(self, run_time: float, service_time: float) -> None:
        """A job has run to its end; `service_time` is without the time for which it was streamed."""
        self.stats.run_time.add(run_time)
        self.service.add(service_time)
        window = self._window
        if service_time < window.least_run_time:
            window.least_run_time = service_time

    # Now and then.

    def begin(self, busy: Callable[[float], float]) -> None:
        """The lane begins to serve; `busy` tells for how many seconds the hub has been busy until a moment."""
        self.sizing.begin(busy)
        self.pool.add(self.options.first_workers)
        self._resized()

    def sample(self) -> None:
        """Take note of how many jobs run and wait, some times in each window."""
        self._window.sample(self.pool.running - self.pool.lasting, self.pool.waiting_count)

    def review(self, now: float, least_lag: float | None) -> None:
        """Look at everything, as at every tick; `least_lag` is how late the hub was at best since the last one."""
        pool = self.pool
        pool.count_lasting(now)
        pool.close_stale_sessions()
        self.sizing.review()
        window = self._window.over(now, least_lag)
        self._limiter.observe(window)
        self._excess.add(window.ended, window.shed)
        busy = self.sizing.busy(now)
        self._throughput.add(window.seconds, window.begun, busy - self._busy_before, backlogged=window.backlogged)
        self._busy_before = busy
        self._review_admissions(now)
        self._resized()
        self._forget_clients(now)

    def _review_admissions(self, now: float) -> None:
        held = self.pool.load
        for admission, priority in self._all_admissions():
            was, cut_at = admission.overloaded, admission.cut_at
            admission.review(now, self._throughput, held)
            if was and not admission.overloaded:
                self._log.record(logging.WARNING, partial(_NO_LONGER.format, self._of_lane))
            self._update(admission)
            if not was and admission.max_wait < math.inf and admission.rejects_many:
                self._enter(admission, priority, now, _FULL)
            elif admission.cut_at != cut_at:
                self._cut(admission)

    def _enter(self, admission: Admission, priority: Priority, now: float, cause: str) -> None:
        """Keep the queue short from now on."""
        wait = self._throughput.wait(self.pool.waiting_before(priority))
        cause = cause.format(wait=wait, max_wait=admission.max_wait, places=self.pool.places)
        text = partial(_OVERLOADED.format, self._of_lane, priority.name.lower(), cause)
        self._log.record(logging.WARNING, text)
        admission.enter(now)
        self._update(admission)
        self._cut(admission)
        self._reconsider()

    def _update(self, admission: Admission) -> None:
        self._throughput.update(self.service, self._may_run)
        free = not self.pool.queued
        short = short_wait(self._throughput, self.service, self._excess.ratio, slots_free=free)
        admission.update(self._throughput, short)

    def _cut(self, admission: Admission) -> None:
        """Reject queued jobs but the oldest; if clients share the pool, the newest of those with the most go first."""
        waiting = [job for job in self.pool.waiting if job.route.admissions[job.priority] is admission]
        waiting.sort(key=lambda job: job.arrived)
        if self._shared:
            waiting = [waiting[index] for index in in_rotation([job.client for job in waiting])]
        for job in waiting[admission.kept :]:
            self._keeper.refuse(job, "shed", OVERLOADED)

    @property
    def _may_run(self) -> int:
        """How many jobs may run at the same time."""
        return min(self._limiter.limit, max(1, self.pool.slots_in_all - self.pool.lasting))

    @property
    def _of_lane(self) -> str:
        return f" of {self.name}" if self.name else ""

    def _all_admissions(self) -> Iterator[tuple[Admission, Priority]]:
        for admissions in self._admissions.values():
            yield from zip(admissions, Priority, strict=True)

    def admissions(self, max_wait: float) -> tuple[Admission, ...]:
        """Return what decides, for each class, whether one more may wait that should not for longer than `max_wait`."""
        if max_wait not in self._admissions:
            self._admissions[max_wait] = tuple(Admission(max_wait) for _ in Priority)
            self._reconsider()
        return self._admissions[max_wait]

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
        overloaded = any(admission.overloaded for admission, _ in self._all_admissions())
        reserved = self._highest < Priority.CRITICAL
        self.calm = self.pool.limit is None and self._clients is None and not overloaded and not reserved
        self._calm_limit = min((admission.limit for admission, _ in self._all_admissions()), default=Admission.NO_LIMIT)

    def _grown(self) -> None:
        """There are more slots now, which work off what waits: wait and see."""
        self._throughput.restart()
        for admission, _ in self._all_admissions():
            admission.leave()
            self._update(admission)

    def snapshot(self) -> LaneSnapshot:
        """Return a picture of the lane."""
        overloaded = next((p.name.lower() for admission, p in self._all_admissions() if admission.overloaded), "")
        return LaneSnapshot(
            name=self.name,
            limit=min(self._limiter.limit, self.pool.slots_in_all),
            overloaded=overloaded,
            clients=0 if self._clients is None else self._clients.active,
            workers=len(self.pool.active),
            most_workers=self.options.max_workers,
        )
