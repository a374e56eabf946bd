"""Admits, rejects and evicts the jobs of one lane, and limits the length of the lane's queue.

`AdmissionControl` passes measurements to the policies in `policy/`, and carries out the decisions of these policies.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..hub.log import HubLog
from ..hub.loghandlers import LOGGER
from ..policy.admission import (
    ADMIT,
    EQUAL,
    EVICT,
    GROW,
    OUTRANKS,
    OVER_SHARE,
    REJECT_FULL,
    REJECT_OVERLOADED,
    REJECT_TIME,
    REJECTIONS,
    Admission,
    contend,
    decide,
    short_wait,
)
from ..policy.cannedresponses import EVICTED, NO_TIME, OVERLOADED, QUEUE_FULL, CannedResponse
from ..policy.excess import RejectionRatio
from ..policy.fairness import Clients, in_rotation
from ..policy.limiters import Window
from ..policy.priority import capacity_of
from ..policy.servicetime import ServiceTime
from ..policy.throughput import Throughput
from ..priority import Priority
from ..stdlib import monotonic
from .classify import client_key, is_of_crowd
from .job import Job

if TYPE_CHECKING:
    from .lane import Lane

__all__ = ["AdmissionControl"]

_CRITICAL: Final = Priority.CRITICAL
"""`Priority.CRITICAL` as a module variable, because attribute access on an enum is slow."""


_OVERLOADED: Final = (
    "overloaded{}: a request of class {} {}; until the arrivals can be served again, the queue is kept short, and "
    "requests that do not fit into it are rejected"
)
_NO_LONGER: Final = "no longer overloaded{}: the arrivals can be served again"


class AdmissionControl:
    """The admission control of a lane: one `Admission` for each `max_wait` and priority, and counts of jobs by client.

    Jobs are counted by client only while the lane rejects requests.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self.pool = lane.pool
        self._order, self._dispatch_queue = lane.pool.order, lane.pool.dispatch_queue
        options = lane.options
        self.service = ServiceTime()
        """Run times of the lane's jobs."""
        self.throughput = Throughput()
        self._excess = RejectionRatio()
        self._admissions: dict[float, tuple[Admission, ...]] = {}
        """Admission states by `max_wait`, then by priority: a low priority can be overloaded while a higher priority is
        not."""
        self._clients: Clients | None = None
        """Counts of each client's jobs; None unless the lane has rejected a request in the last few seconds."""
        self._client_key = client_key(options.client_key)
        self._crowds = options.client_key == "address" and not options.trusted_proxies
        """True if clients are distinguished by address and no proxy is trusted, so that one address may be a proxy with
        many clients."""
        self._refused = False
        """True if a request has found no capacity since the last call of `forget_clients`."""
        self._refused_at = 0.0
        self._highest = self._lowest = Priority.CRITICAL
        """Highest and lowest priority of all requests so far."""
        self.uncontended = True
        """True while `admit` may use its fast path: no concurrency limit, no overload, no counting of jobs by client,
        and no capacity reserved for higher priorities."""
        self._calm_limit = Admission.NO_LIMIT
        """The smallest queue limit of all priorities; the fast path admits a job only if fewer jobs wait."""
        self._known_limit = 0
        """Limit of running jobs to which the statistics of run times belong."""
        self._busy_before = 0.0
        """Total busy time of the hub, in seconds, at the last review."""
        self._log = HubLog(LOGGER.log)

    def __repr__(self) -> str:
        return f"<AdmissionControl{self._of_lane}, overloaded: {self.overloaded or 'no'}>"

    @property
    def overloaded(self) -> str:
        """Name of the highest priority that is overloaded; "" if no priority is overloaded."""
        return next((p.name.lower() for admission, p in self._all_admissions() if admission.overloaded), "")

    @property
    def rejection_ratio(self) -> float:
        """Number of rejected jobs per job that was run, over the last few seconds."""
        return self._excess.ratio

    @property
    def overloaded_priorities(self) -> set[Priority]:
        """The priorities that are overloaded, for any `max_wait`."""
        return {priority for admission, priority in self._all_admissions() if admission.overloaded}

    @property
    def clients(self) -> int:
        """Number of clients with queued or running jobs; 0 while jobs are not counted by client."""
        return 0 if self._clients is None else self._clients.active

    @property
    def _shared(self) -> bool:
        """Whether fair queueing between several clients is in effect."""
        return self._clients is not None and self._clients.several

    # Methods for the arrival of a job.

    def admit(self, job: Job, now: float) -> CannedResponse | None:
        """Assign a job to a worker and return None, or return the response if the job is rejected. Never waits."""
        pool = self.pool
        ahead = self._order.count + len(self._dispatch_queue.waiting)
        if (
            self.uncontended
            and job.priority is _CRITICAL
            and ahead < self._calm_limit
            and self._in_time(job, ahead, now)
            and pool.bring(job)
        ):
            return None
        return self._admit_among_others(job, now)

    def _admit_among_others(self, job: Job, now: float) -> CannedResponse | None:
        priority = job.priority
        if not self._highest <= priority <= self._lowest:
            self._highest, self._lowest = min(self._highest, priority), max(self._lowest, priority)
        admission = job.route.admissions[priority]
        admission.asked += 1
        if self.pool.expects_long_wait(job.environ, priority, self._highest, now) and self.pool.run_long_wait(job, now):
            return None
        in_time = admission.max_wait == math.inf or self._in_time(job, self.pool.waiting_before(priority), now)
        decision = self._decide(admission, priority, in_time=in_time, may_grow=self._lane.scaler.may_grow)
        if decision == GROW:
            self._lane.make_room()
            decision = self._decide(admission, priority, in_time=True, may_grow=False)
        if decision == REJECT_TIME:
            return NO_TIME
        if decision == REJECT_OVERLOADED and not admission.overloaded:
            self._enter(admission, priority, now, self._long_wait(admission, priority))
        if decision != ADMIT:
            decision = self._take_capacity(job, admission, decision, now)
        if decision != ADMIT:
            return REJECTIONS[decision]
        if self._clients is not None:
            self._count(job, self._clients, now)
        return None if self.pool.bring(job) else QUEUE_FULL

    def _in_time(self, job: Job, ahead: int, now: float) -> bool:
        """Return whether a job will start before its deadline; `ahead` jobs are queued before this job."""
        left = job.deadline.at - now
        if ahead < Admission.LEAST_LIMIT or self.throughput.wait(ahead) < left:
            return True
        if left <= job.route.admissions[job.priority].max_wait:
            return False
        # After a start, the predicted wait is longer than the real one, because the first requests are slow. So reject
        # a job only if queued jobs have already waited long.
        return not Admission.plausible(ahead, self.pool.longest_wait(now), left)

    def _decide(self, admission: Admission, priority: Priority, *, in_time: bool, may_grow: bool) -> int:
        pool = self.pool
        full = pool.load >= capacity_of(pool.places, priority, self._highest)
        long_queue = False
        if in_time and not full:
            ahead = pool.waiting_before(priority)
            # Compute the longest wait only if it can change the result.
            long_queue = ahead >= admission.limit and admission.full(ahead, pool.longest_wait(monotonic()))
        return decide(in_time=in_time, full=full, long_queue=long_queue, may_grow=may_grow)

    def early_rejection(
        self, environ: dict[str, Any], admission: Admission, priority: Priority, asker: Hashable
    ) -> CannedResponse | None:
        """Return the rejection for a request that has no job yet; None if `admit` has to decide.

        `admit` has to decide whenever there is capacity, the pool may grow, or another job may have to be evicted.
        `asker` identifies the connection of the request.
        """
        if self.pool.expects_long_wait(environ, priority, self._highest, monotonic()):
            return None
        decision = self._decide(admission, priority, in_time=True, may_grow=self._lane.scaler.may_grow)
        if decision < EVICT or (decision == REJECT_OVERLOADED and not admission.overloaded):
            return None
        decision = self._contend(environ, priority, decision)
        if decision == EVICT:
            return None
        admission.asked += 1
        self._count_refusal(admission, asker)
        return REJECTIONS[decision]

    def _count_refusal(self, admission: Admission, asker: Hashable) -> None:
        admission.refused += 1
        if admission.counts_connections:
            admission.count(asker)

    # Methods for a job that finds no capacity.

    def _contend(self, environ: dict[str, Any], priority: Priority, rejection: int) -> int:
        """Return `EVICT` if another job should be evicted for a request; otherwise return the rejection."""
        self._refused = True
        return contend(rejection, self._claim(environ, priority), lower_queued=self._lowest > priority)

    def _claim(self, environ: dict[str, Any], priority: Priority) -> int:
        """Return a client's claim to capacity for a request: EQUAL, OVER_SHARE or OUTRANKS.

        With a single client, this method returns early, so that a rejection is cheap.
        """
        if self._client_key is None:
            return EQUAL
        clients = self._clients or self._begin_counting(monotonic())
        # Do not compute the client's key if no client has a job in the lane, because there is no competitor then.
        if not clients.active or not clients.others(key := self._client_key(environ)):
            return EQUAL
        limit = self.pool.may_run
        if not (clients.may_hold(key, limit) or (self._crowds and is_of_crowd(environ))):
            return OVER_SHARE
        if clients.eviction_candidate(key, priority, monotonic()) is not None:
            return OUTRANKS
        below = priority > self._highest and clients.makes_room_below(key, priority, limit) is not None
        return OUTRANKS if below else EQUAL

    def _take_capacity(self, job: Job, admission: Admission, rejection: int, now: float) -> int:
        """Evict another job in favour of `job`; return ADMIT, or the rejection if no job may be evicted."""
        decision = self._contend(job.environ, job.priority, rejection)
        if decision == EVICT:
            victim = self.pool.newest_below(job.priority) if rejection == REJECT_FULL else None
            victim = victim or self._victim_of_client(job, now)
            if victim is not None:
                self._lane.reject(victim, "shed", EVICTED)
                return ADMIT
            decision = rejection
        # Leave the fast path: until the next review, `early_rejection` checks each request before a Job is created.
        self._use_fast_path(False)
        self._count_refusal(admission, (job.environ.get("REMOTE_ADDR"), job.environ.get("REMOTE_PORT")))
        return decision

    def _victim_of_client(self, job: Job, now: float) -> Job | None:
        """Return the newest waiting job of the client and priority chosen for eviction, or None."""
        if self._clients is None or self._client_key is None:
            return None
        priority, own = job.priority, self._client_key(job.environ)
        key = self._clients.eviction_candidate(own, priority, now) if self._clients.others(own) else None
        if key is None:
            below = self._clients.makes_room_below(own, priority, self.pool.may_run)
            if below is None:
                return None
            key, priority = below
        waiting = (job for job in self.pool.waiting if job.priority == priority and job.client == key)
        return max(waiting, key=lambda job: job.arrived, default=None)

    def _begin_counting(self, now: float) -> Clients:
        clients = self._clients = Clients(now)
        for job in self.pool.jobs:
            self._count(job, clients, now)
            if job.state == "running":
                clients.begin(job.client, job.priority)
        self.pool.enable_fair_queue(clients)
        self.update_fast_path()
        return clients

    def _count(self, job: Job, clients: Clients, now: float) -> None:
        job.client = self._client_key(job.environ) if self._client_key is not None else None
        job.counted_by = clients
        clients.admit(job.client, job.priority, now)

    # Methods for the start of a job.

    def stale_rejection(self, job: Job, now: float) -> CannedResponse | None:
        """Return the rejection for a job that is due to start, but has waited too long; None if the job may start."""
        admission = job.route.admissions[job.priority]
        if admission.overdue(now - job.arrived) and self.pool.has_backlog:
            return OVERLOADED
        left = job.deadline.at - now
        if admission.max_wait < math.inf and not job.route.usual.suffices(left, job.deadline.whole):
            return NO_TIME
        return None

    # Periodic work.

    def review(self, now: float, window: Window, busy: float) -> None:
        """Update the admission states; called at every tick.

        `busy` is the total number of seconds for which the hub has been busy.
        """
        self._excess.add(window.ended, window.shed)
        self.throughput.add(window.seconds, window.begun, busy - self._busy_before, backlogged=window.backlogged)
        self._busy_before = busy
        self._follow_limit(now)
        self._review_admissions(now)

    def run_queued_long_waits(self, now: float) -> None:
        """Run the queued jobs that may run beyond the limit; called at every tick, once the limit has been applied."""
        self.pool.run_queued_long_waits(self._highest, now)

    def _follow_limit(self, now: float) -> None:
        """Renew the statistics of run times if the limit of running jobs has fallen below half."""
        limit = self.pool.may_run
        if limit < self._known_limit / 2:
            self.service.renew(now)
            self._known_limit = limit
        self._known_limit = max(self._known_limit, limit)

    def _review_admissions(self, now: float) -> None:
        held = self.pool.load
        for admission, priority in self._all_admissions():
            was, cut_at = admission.overloaded, admission.cut_at
            admission.review(now, self.throughput, held)
            if was and not admission.overloaded:
                self._log.record(logging.WARNING, partial(_NO_LONGER.format, self._of_lane))
            self._update(admission)
            if not was and admission.max_wait < math.inf and admission.rejects_many:
                self._enter(admission, priority, now, self._queues_full)
            elif admission.cut_at != cut_at:
                self._cut(admission)

    def _enter(self, admission: Admission, priority: Priority, now: float, cause: str) -> None:
        """Switch an admission state to overloaded, and cut its queue to the short limit."""
        text = partial(_OVERLOADED.format, self._of_lane, priority.name.lower(), cause)
        self._log.record(logging.WARNING, text)
        admission.enter(now)
        self._update(admission)
        self._cut(admission)
        self.update_fast_path()

    def _long_wait(self, admission: Admission, priority: Priority) -> str:
        wait = self.throughput.wait(self.pool.waiting_before(priority))
        return f"would wait {wait:.1f} s, and max_wait_seconds is {admission.max_wait:g}"

    @property
    def _queues_full(self) -> str:
        return f"found all slots and queues full too often ({self.pool.places} requests: slots and queue_size)"

    def _update(self, admission: Admission) -> None:
        self.throughput.update(self.service, self.pool.may_run)
        free = not self.pool.queued
        short = short_wait(self.throughput, self.service, self._excess.ratio, slots_free=free)
        admission.update(self.throughput, short)

    def _cut(self, admission: Admission) -> None:
        """Reject the newest queued jobs, so that `admission.kept` jobs remain.

        If several clients have jobs, jobs of the clients with the most queued jobs are rejected first.
        """
        waiting = [job for job in self.pool.waiting if job.route.admissions[job.priority] is admission]
        waiting.sort(key=lambda job: job.arrived)
        if self._shared:
            waiting = [waiting[index] for index in in_rotation([job.client for job in waiting])]
        for job in waiting[admission.kept :]:
            self._lane.reject(job, "shed", OVERLOADED)

    @property
    def _of_lane(self) -> str:
        return f" of {self._lane.name}" if self._lane.name else ""

    def _all_admissions(self) -> Iterator[tuple[Admission, Priority]]:
        for admissions in self._admissions.values():
            yield from zip(admissions, Priority, strict=True)

    def states(self, max_wait: float) -> tuple[Admission, ...]:
        """Return the admission state of each priority for requests that may wait at most `max_wait` seconds."""
        if max_wait not in self._admissions:
            self._admissions[max_wait] = tuple(Admission(max_wait) for _ in Priority)
            self.update_fast_path()
        return self._admissions[max_wait]

    def forget_clients(self, now: float) -> None:
        """Remove old client records; some seconds after the last rejection, stop counting jobs by client."""
        if self._refused:
            self._refused, self._refused_at = False, now
        if self._clients is not None:
            self._clients.forget(now)
            if now - self._refused_at > Clients.MEMORY_SECONDS:
                self._clients = None
                self.pool.disable_fair_queue()
                self.update_fast_path()

    def update_fast_path(self) -> None:
        """Recompute whether `admit` may use its fast path, and the queue limit of that path."""
        overloaded = any(admission.overloaded for admission, _ in self._all_admissions())
        reserved = self._highest < Priority.CRITICAL
        self._use_fast_path(self.pool.limit is None and self._clients is None and not overloaded and not reserved)
        self._calm_limit = min((admission.limit for admission, _ in self._all_admissions()), default=Admission.NO_LIMIT)

    def _use_fast_path(self, uncontended: bool) -> None:
        self.uncontended = uncontended
        contended = self._lane.context.contended
        if uncontended:
            contended.discard(self)
        else:
            contended.add(self)

    def grown(self) -> None:
        """End the overloaded state after the pool has grown, because the new slots may empty the queue."""
        self.throughput.restart()
        for admission, _ in self._all_admissions():
            admission.leave()
            self._update(admission)
