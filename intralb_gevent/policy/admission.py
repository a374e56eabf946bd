"""Admission control decides whether to admit or reject a request, and limits how many requests may be queued.

The functions `decide` and `contend` return the decision for one request. `Admission` computes the queue limit on which
this decision depends.

Admission has two states. In the state *queueing*, a request whose expected wait exceeds `max_wait` is rejected only if
this prediction is plausible. A prediction is plausible if the oldest queued request has already waited for a large part
of `max_wait`. The first rejection for this reason switches the state to *overloaded*. While the state is *overloaded*,
the queue limit is low, and requests beyond the limit are rejected immediately. A long queue would delay all requests
and serve none of them sooner.

Overload ends when the pool could have served all requests that arrived in the last second. Rejected clients that retry
immediately can hide the end of an overload, because 20 of these clients send thousands of requests per second.
Therefore, `Admission` starts a *probe* every few seconds. A probe raises the queue limit to the number of connections
that sent a request in the last second. The probe starts only if the pool can serve that many requests within
`max_wait`. The queue then has capacity for all clients that wait for a response before they send the next request. If
the pool then serves all arriving requests, overload ends; otherwise, the queue is cut, and the next probe is delayed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from typing import Final

from .cannedresponses import NO_TIME, OVERLOADED, QUEUE_FULL, TOO_MANY_OF_CLIENT, CannedResponse
from .servicetime import ServiceTime
from .throughput import Throughput

__all__ = [
    "ADMIT",
    "EQUAL",
    "EVICT",
    "GROW",
    "OUTRANKS",
    "OVER_SHARE",
    "REJECTIONS",
    "REJECT_FULL",
    "REJECT_OVERLOADED",
    "REJECT_SHARE",
    "REJECT_TIME",
    "Admission",
    "contend",
    "decide",
    "short_wait",
]

# The decisions are small integers, and each rejection is an existing response, so a decision allocates no memory.
ADMIT: Final = 0
GROW: Final = 1
"""Grow the pool, then call `decide` again."""
EVICT: Final = 2
"""Evict a queued request and admit the new one; if no request may be evicted, reject the new one."""
REJECT_TIME: Final = 3
REJECT_FULL: Final = 4
REJECT_OVERLOADED: Final = 5
REJECT_SHARE: Final = 6

REJECTIONS: Final[dict[int, CannedResponse]] = {
    REJECT_TIME: NO_TIME,
    REJECT_FULL: QUEUE_FULL,
    REJECT_OVERLOADED: OVERLOADED,
    REJECT_SHARE: TOO_MANY_OF_CLIENT,
}

EQUAL: Final = 0
"""The claim of a client whose new request may not evict another client's request."""
OVER_SHARE: Final = 1
"""The claim of a client that already holds as many requests as one client may hold."""
OUTRANKS: Final = 2
"""The claim of a client whose new request may evict another client's request, because the other client has more queued
requests, or exceeds its share."""


def decide(*, in_time: bool, full: bool, long_queue: bool, may_grow: bool) -> int:
    """Return the decision for a request, one of ADMIT, GROW, REJECT_TIME, REJECT_FULL or REJECT_OVERLOADED.

    `in_time` is true if the request is expected to start before its deadline. `full` is true if the pool has no
    capacity left for this priority. `long_queue` is true if the expected wait is too long.
    """
    if not in_time:
        return REJECT_TIME
    if not (full or long_queue):
        return ADMIT
    if may_grow:
        return GROW
    return REJECT_FULL if full else REJECT_OVERLOADED


def contend(rejection: int, claim: int, *, lower_queued: bool) -> int:
    """Return EVICT if a request should evict another one; otherwise return the rejection to send.

    `rejection` is the result of `decide`. `claim` is EQUAL, OVER_SHARE or OUTRANKS. `lower_queued` is true if requests
    of a lower priority have arrived. A request of a lower priority is evicted only if the pool is full, because a long
    queue of lower priority does not delay a request of higher priority.
    """
    if claim == OVER_SHARE:
        return REJECT_SHARE
    if claim == OUTRANKS or (rejection == REJECT_FULL and lower_queued):
        return EVICT
    return rejection


SHORT_TARGETS: Final = 4
"""Maximum wait for a slot during overload, as a multiple of `Throughput.target`; `SHORT_RUN_TIMES` can allow a longer
wait."""
LOOP_LEAST_TARGET: Final = 0.04
LOOP_SHORT_TARGETS: Final = 2
"""During overload, while slots are free, the maximum wait for the event loop is `LOOP_SHORT_TARGETS` times the larger
of `Throughput.target` and `LOOP_LEAST_TARGET`."""
SHORT_RUN_TIMES: Final = 2
"""Maximum wait for a slot during overload, as a multiple of the mean run time. The maximum is at least the mean
residual run time, which is long if a few requests run much longer than the mean."""
LIGHT_FACTOR: Final = 3
"""Largest factor by which the maximum wait is extended while few requests are rejected: the longer queue keeps the
slots busy during lulls. The factor was tested in a simulation of ten slots at full load. The run times were constant at
50 ms, exponentially distributed, or 300 ms for 5 % of the requests and 5 ms for the others. With the factor, the
goodput within 500 ms was 99, 98 and 95 % of the maximum; without the factor, it was 97, 96 and 92 %."""
EMPTY_EXPONENT: Final = 4
"""Exponent that determines how often the queue may be empty. The maximum wait is extended, at most by `LIGHT_FACTOR`,
until the queue is empty for only exp(-4) = 2 % of the time. With random arrivals and `rejected` rejections per
completion, a queue with a limit of x requests is empty for exp(-2 * x * rejected / (1 + variation)) of the time. This
formula is the diffusion approximation for heavy traffic (Kingman, "The single server queue in heavy traffic", 1961),
for a queue whose length drifts towards its limit."""


def short_wait(throughput: Throughput, service: ServiceTime, rejected: float, *, slots_free: bool) -> float:
    """Return the longest expected wait, in seconds, with which a request is still admitted during overload.

    `rejected` is the number of rejections per completion. `slots_free` is true if requests wait for the event loop
    while slots are free.
    """
    if slots_free:
        least = LOOP_SHORT_TARGETS * max(LOOP_LEAST_TARGET, throughput.target)
    else:
        least = max(SHORT_TARGETS * throughput.target, SHORT_RUN_TIMES * service.mean, service.residual)
    rarely_empty = EMPTY_EXPONENT * (1 + service.variation) / (2 * max(rejected, 1e-9)) * throughput.interval
    return min(LIGHT_FACTOR * least, max(least, rarely_empty))


class Admission:
    """The admission state for requests of one priority with the same `max_wait`; times are in monotonic seconds.

    If `max_wait` is 0, the state is always overloaded; if `max_wait` is infinity, the state is never overloaded. The
    caller counts arrivals (`asked`), started requests (`begun`) and rejections (`refused`), and calls `review` at every
    tick.
    """

    HORIZON: Final = 1.0
    """Length, in seconds, of the horizon: the recent period over which arrivals and starts are compared. The horizon is
    at least `HORIZON_INTERVALS` times the mean interval between two starts."""
    HORIZON_INTERVALS: Final = 20
    TOLERANCE: Final = 1.1
    """Overload ends when the number of arrivals is at most `TOLERANCE` times the number of starts, plus
    `SPARE_ARRIVALS`."""
    SPARE_ARRIVALS: Final = 2
    PROBE_DELAY: Final = 2.0
    MOST_PROBE_DELAY: Final = 4.0
    """The first probe starts after `PROBE_DELAY` seconds. Each failed probe doubles the delay before the next probe, up
    to `MOST_PROBE_DELAY` seconds. Clients that retry immediately are therefore served again within about
    `MOST_PROBE_DELAY` seconds after a flood ends."""
    SETTLING: Final = 0.15
    """Initial share of a probe's duration that is not evaluated, because the raised queue limit first admits all
    waiting clients at once."""
    CHANCE: Final = 2
    """A running probe fails early if the arrivals exceed the tolerated number by more than this number of standard
    deviations."""
    PROBE_MARGIN: Final = 1.1
    """Ratio of a probe's queue limit to the number of counted connections."""
    KEPT_AFTER_PROBE: Final = 2
    KEPT_WAIT: Final = 0.25
    """After a failed probe, the larger of two numbers of requests stays in the queue. One number is `KEPT_AFTER_PROBE`
    times the queue limit; the other number is how many requests can be started within `KEPT_WAIT` times `max_wait`. A
    shorter queue would mean rejecting requests that have already waited long."""
    CROWD: Final = 100
    """Minimum length of a queue that counts as a crowd. A shorter queue can result from a few browsers that load pages
    during a short slowdown."""
    EVIDENCE: Final = 0.9
    CROWD_EVIDENCE: Final = 0.5
    """Share of `max_wait` for which the oldest queued request must have waited before another request is rejected
    because of its expected wait. For a crowd, the share is only `CROWD_EVIDENCE`. The reason is that at a load of twice
    the capacity, the oldest request has waited for half of `max_wait` when the expected wait reaches `max_wait`."""
    FLOOD: Final = 2
    FLOOD_EVIDENCE: Final = 0.25
    """If a crowd is at least `FLOOD` times as long as the queue limit, the share is `FLOOD_EVIDENCE`. This share is not
    0: after slow requests have lowered the queue limit, 200 quick requests of clients that reconnect must still be
    admitted."""
    MANY_REJECTED: Final = 0.1
    """Ratio of rejected to started requests above which a full queue means overload; at a lower ratio, the rejections
    may be due to chance."""
    LEAST_LIMIT: Final = 2
    """Minimum queue limit, whatever the expected wait is: one request that is about to start, and one waiting
    request."""
    NO_LIMIT: Final = 1 << 30
    """Queue limit while the throughput is unknown."""

    def __init__(self, max_wait: float) -> None:
        self.max_wait = max_wait
        self.overloaded = max_wait == 0
        self.limit = self.NO_LIMIT
        """Queue limit: a request may be rejected if at least this many requests are queued before it."""
        self.longest_wait = max_wait
        """Seconds in the queue after which, during overload, a request is rejected instead of started."""
        self.cut_at = -math.inf
        """Time at which the queue was last cut to `kept` requests."""
        self.counts_connections = False
        """True while a probe is due soon; the caller then passes the connections of rejected requests to `count`."""
        self.asked = self.begun = self.refused = 0
        self.kept = self.NO_LIMIT
        """Number of requests that stay in the queue when it is cut."""
        self._after_probe = False
        self._connections: set[Hashable] = set()
        self._windows = deque[tuple[float, int, int, int]]()
        """End time, arrivals, starts and rejections of each window within the horizon."""
        self._entered = -math.inf
        self._probe_at = math.inf
        self._probing_since: float | None = None
        self._probe_delay = self.PROBE_DELAY

    def __repr__(self) -> str:
        state = "queueing" if not self.overloaded else "overloaded" if self._probing_since is None else "probing"
        return f"<Admission {state}, queue limit {self.limit}>"

    @property
    def rejects_many(self) -> bool:
        """True if, within the horizon, more requests were rejected because of a full queue than chance explains."""
        begun = sum(begun for _, _, begun, _ in self._windows)
        refused = sum(refused for *_, refused in self._windows)
        return refused > self.MANY_REJECTED * begun + self.SPARE_ARRIVALS

    def full(self, ahead: int, waited: float) -> bool:
        """Return whether to reject a request that has `ahead` requests queued before it.

        `waited` is the time in seconds for which the oldest queued request has waited.
        """
        if ahead < self.limit:
            return False
        if self.overloaded:
            return True
        flood = ahead >= self.CROWD and ahead >= self.FLOOD * self.limit
        return waited >= self.FLOOD_EVIDENCE * self.max_wait if flood else self.plausible(ahead, waited, self.max_wait)

    @classmethod
    def plausible(cls, ahead: int, waited: float, longest: float) -> bool:
        """Return whether the prediction that a request will wait longer than `longest` seconds is plausible.

        `ahead` requests are queued before this request; the oldest queued request has waited for `waited` seconds.
        """
        return waited >= (cls.EVIDENCE if ahead < cls.CROWD else cls.CROWD_EVIDENCE) * longest

    def overdue(self, waited: float) -> bool:
        """Return whether a queued request has waited too long to be started; without overload, return False."""
        return self.overloaded and waited > self.longest_wait

    def count(self, connection: Hashable) -> None:
        """Record the connection of a rejected request; called while `counts_connections` is true."""
        self._connections.add(connection)

    def update(self, throughput: Throughput, short: float) -> None:
        """Recompute the queue limit; `short` is the result of `short_wait`."""
        self.longest_wait = max(self.max_wait, 2 * short)
        if not throughput.interval:
            self.limit = self.NO_LIMIT
        elif self._probing_since is None:
            wait = min(short, self.max_wait or short) if self.overloaded else self.max_wait
            self.limit = max(self.LEAST_LIMIT, int(min(wait / throughput.interval, self.NO_LIMIT)))
        self.kept = self.limit
        if self._after_probe and throughput.interval:
            kept_wait = int(self.KEPT_WAIT * self.max_wait / throughput.interval)
            self.kept = max(self.KEPT_AFTER_PROBE * self.limit, kept_wait)

    def enter(self, now: float) -> None:
        """Switch the state to overloaded. The caller must then call `update`, and cut the queue to `kept` requests."""
        self.overloaded, self._entered = True, now
        self.cut_at, self._after_probe = now, False
        self._reset()
        self._probe_at = now + self._probe_delay

    def leave(self) -> None:
        """Switch the state to queueing, unless `max_wait` is 0."""
        self.overloaded = self.max_wait == 0
        self._reset()

    def review(self, now: float, throughput: Throughput, held: int) -> None:
        """End the current window; during overload, also check whether to end the overload, or to start or end a probe.

        `held` is the number of queued and running requests.
        """
        self._windows.append((now, self.asked, self.begun, self.refused))
        refused = self.refused
        self.asked = self.begun = self.refused = 0
        horizon = max(self.HORIZON, self.HORIZON_INTERVALS * throughput.interval)
        while self._windows[0][0] <= now - horizon:
            self._windows.popleft()
        if not self.overloaded or not self.max_wait:
            return
        if self._probing_since is not None:
            self._review_probe(now, self._probing_since, horizon, refused)
        elif now - self._entered >= horizon and self._sustainable(self._entered):
            self._probe_delay = self.PROBE_DELAY
            self.leave()
        elif now >= self._probe_at:
            self._start_probe(now, throughput.least_interval, held)
        else:
            self.counts_connections = now >= self._probe_at - self.HORIZON

    def _sustainable(self, since: float, chance: float = 0) -> bool:
        """Return whether the pool could have served all requests that arrived after `since`, within the horizon.

        The result is True if the arrivals exceed the starts by at most the tolerance plus `chance` standard deviations.
        The arrivals and the starts are modelled as two Poisson processes.
        """
        asked = sum(asked for end, asked, *_ in self._windows if end > since)
        begun = sum(begun for end, _, begun, _ in self._windows if end > since)
        return asked <= self.TOLERANCE * begun + self.SPARE_ARRIVALS + chance * math.sqrt(asked + begun)

    def _start_probe(self, now: float, interval: float, held: int) -> None:
        refused = len(self._connections)
        # A connection with a held request may also have sent rejected requests. Therefore, the number of connections is
        # at least the larger of `held` and `refused`, and at most their sum.
        least = max(held, refused)
        limit = int(self.PROBE_MARGIN * (held + refused)) + 1
        self._connections.clear()
        self.counts_connections = False
        if limit > self.limit and least * interval <= self.max_wait:
            self._probing_since, self.limit = now, limit
        else:
            self._probe_at = now + self.PROBE_DELAY

    def _review_probe(self, now: float, since: float, horizon: float, refused: int) -> None:
        settled, ended = since + self.SETTLING * horizon, now - since >= horizon
        # End a failing probe early, because each request that a flood adds to the queue delays all later requests.
        if refused > self.SPARE_ARRIVALS or not self._sustainable(settled, 0 if ended else self.CHANCE):
            self._fail_probe(now)
        elif ended:
            self.leave()

    def _fail_probe(self, now: float) -> None:
        self._probing_since = None
        self.cut_at, self._after_probe = now, True
        self._probe_delay = min(self.MOST_PROBE_DELAY, 2 * self._probe_delay)
        self._probe_at = now + self._probe_delay

    def _reset(self) -> None:
        self._connections.clear()
        self._windows.clear()
        self.asked = self.begun = self.refused = 0
        self._probing_since, self._probe_at, self.counts_connections = None, math.inf, False
