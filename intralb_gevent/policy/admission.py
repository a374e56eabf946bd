"""Admission control: how many requests may be queued, from the wait that a new one can expect.

It has two states. While *queueing*, a request is rejected only if its expected wait exceeds `max_wait`, and if that is
plausible: others have waited nearly as long already. The first such request switches to *overloaded*: the queue limit
becomes short, and requests beyond it are rejected at once. A long queue would serve nobody sooner and everybody later.

Overload ends when the arrivals of one second could have been served. Clients that retry immediately can hide that: 20
of them produce thousands of arrivals. So the state is *probed* every few seconds. The queue limit is raised to the
number of connections that sent a request in the last second, if their requests fit into `max_wait`. Clients that wait
for their responses cannot send more than that. If arrivals then match the throughput, overload ends; otherwise the
queue is cut and the next probe is delayed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from typing import Final

from .servicetime import ServiceTime
from .throughput import Throughput

__all__ = ["Admission", "short_wait"]

SHORT_TARGETS: Final = 4
"""Wait during overload, in units of the throughput's target."""
LOOP_LEAST_TARGET: Final = 0.04
LOOP_SHORT_TARGETS: Final = 2
"""The same two for requests that wait for the event loop, not for a slot; the first in seconds."""
SHORT_RUN_TIMES: Final = 2
"""Wait during overload, in mean run times, for requests that wait for a slot. If a few requests run much longer than
the mean, it is the mean residual run time of the running ones."""
LIGHT_FACTOR: Final = 3
"""How much longer the wait may be when few requests are rejected: the queue must then keep the slots busy during lulls.
Simulated at capacity with ten slots: of the possible goodput within 500 ms, 99 % is reached with constant run times of
50 ms, 98 % with exponential ones, and 95 % if 5 % take 300 ms and the rest 5 ms. Without it: 97, 96 and 92 %."""
EMPTY_EXPONENT: Final = 4
"""Within that factor, the queue limit is chosen so that the queue is empty in exp(-4) = 2 % of the time. For random
arrivals with `rejected` rejections per completion, a queue limit of x is empty in a share of
exp(-2 * x * rejected / (1 + variation)): the diffusion approximation for heavy traffic (Kingman, "The single server
queue in heavy traffic", 1961), with the drift towards the bound."""


def short_wait(throughput: Throughput, service: ServiceTime, rejected: float, *, slots_free: bool) -> float:
    """Return the longest expected wait to admit during overload, in seconds.

    `rejected` is the number of rejections per completion. `slots_free` is true if requests wait for the event loop.
    """
    if slots_free:
        least = LOOP_SHORT_TARGETS * max(LOOP_LEAST_TARGET, throughput.target)
    else:
        least = max(SHORT_TARGETS * throughput.target, SHORT_RUN_TIMES * service.mean, service.residual)
    rarely_empty = EMPTY_EXPONENT * (1 + service.variation) / (2 * max(rejected, 1e-9)) * throughput.interval
    return min(LIGHT_FACTOR * least, max(least, rarely_empty))


class Admission:
    """The admission state of one priority with one `max_wait`, in seconds of a monotonic clock.

    With a `max_wait` of 0 it is always overloaded; with infinity it never is. The caller counts arrivals (`asked`),
    started requests (`begun`) and rejections (`refused`), and calls `review` every tick.
    """

    HORIZON: Final = 1.0
    """Arrivals and starts are compared over this many seconds, or over `HORIZON_INTERVALS` completions if longer."""
    HORIZON_INTERVALS: Final = 20
    TOLERANCE: Final = 1.1
    """Overload ends when arrivals are at most this multiple of the starts, plus `SPARE_ARRIVALS`."""
    SPARE_ARRIVALS: Final = 2
    PROBE_DELAY: Final = 2.0
    MOST_PROBE_DELAY: Final = 4.0
    """Delay of the first probe, and the longest delay after failed ones. Clients that retry immediately are served
    again about this long after a flood has ended."""
    SETTLING: Final = 0.3
    """Share of a probe that is ignored: all waiting clients are admitted in it at once."""
    PROBE_MARGIN: Final = 1.1
    """Queue limit of a probe, relative to the number of counted connections."""
    KEPT_AFTER_PROBE: Final = 2
    KEPT_WAIT: Final = 0.25
    """A failed probe cuts the queue to this multiple of the short limit, or to this share of `max_wait` if that is
    more; cutting further would reject late."""
    CROWD: Final = 100
    """A queue of fewer requests may be a page load of some browsers, at a moment when the server is slow."""
    EVIDENCE: Final = 0.9
    CROWD_EVIDENCE: Final = 0.5
    """The oldest queued request must have waited for this share of `max_wait` before another is rejected for its
    expected wait. At twice the capacity it has waited for half of that when the queue is as long as `max_wait`."""
    CERTAIN: Final = 2
    """A crowd in a queue this many times as long as `max_wait` needs no such evidence."""
    MANY_REJECTED: Final = 0.1
    """A full queue that rejects more than this share of the started requests is overload; fewer are chance."""
    LEAST_LIMIT: Final = 2
    """The least queue limit, whatever the expected wait: one request about to start, and one that waits."""
    NO_LIMIT: Final = 1 << 30
    """The queue limit while the throughput is unknown."""

    def __init__(self, max_wait: float) -> None:
        self.max_wait = max_wait
        self.overloaded = max_wait == 0
        self.limit = self.NO_LIMIT
        """A request may be rejected if at least this many are queued before it."""
        self.longest_wait = max_wait
        """During overload, a request that has waited longer is rejected instead of being started."""
        self.cut_at = -math.inf
        """When the queue was last to be cut to `kept` requests."""
        self.counts_connections = False
        """Whether a probe is due soon, so that rejected requests are passed to `count`."""
        self.asked = self.begun = self.refused = 0
        self.kept = self.NO_LIMIT
        """The number of requests that stay queued when the queue is cut."""
        self._after_probe = False
        self._connections: set[Hashable] = set()
        self._windows = deque[tuple[float, int, int, int]]()
        """End, arrivals, starts and rejections of each window within the horizon."""
        self._entered = -math.inf
        self._probe_at = math.inf
        self._probing_since: float | None = None
        self._probe_delay = self.PROBE_DELAY

    def __repr__(self) -> str:
        state = "queueing" if not self.overloaded else "overloaded" if self._probing_since is None else "probing"
        return f"<Admission {state}, queue limit {self.limit}>"

    @property
    def rejects_many(self) -> bool:
        """Whether a full queue has rejected more requests within the horizon than chance explains."""
        begun = sum(begun for _, _, begun, _ in self._windows)
        refused = sum(refused for *_, refused in self._windows)
        return refused > self.MANY_REJECTED * begun + self.SPARE_ARRIVALS

    def full(self, ahead: int, waited: float) -> bool:
        """Return whether a request with `ahead` requests queued before it is rejected.

        `waited` is for how long the oldest of them has been queued, in seconds.
        """
        if ahead < self.limit:
            return False
        if self.overloaded or (ahead >= self.CROWD and ahead >= self.CERTAIN * self.limit):
            return True
        return self.plausible(ahead, waited, self.max_wait)

    @classmethod
    def plausible(cls, ahead: int, waited: float, longest: float) -> bool:
        """Return whether a request may really wait longer than `longest` seconds, as is predicted.

        `waited` is for how long the oldest of the `ahead` requests before it has been queued, in seconds.
        """
        return waited >= (cls.EVIDENCE if ahead < cls.CROWD else cls.CROWD_EVIDENCE) * longest

    def overdue(self, waited: float) -> bool:
        """Return whether a queued request has waited too long to be started, during overload."""
        return self.overloaded and waited > self.longest_wait

    def count(self, connection: Hashable) -> None:
        """Record the connection of a rejected request, while `counts_connections`."""
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
        """Switch to overloaded. The caller then calls `update` and cuts the queue."""
        self.overloaded, self._entered = True, now
        self.cut_at, self._after_probe = now, False
        self._reset()
        self._probe_at = now + self._probe_delay

    def leave(self) -> None:
        """Switch to queueing."""
        self.overloaded = self.max_wait == 0
        self._reset()

    def review(self, now: float, throughput: Throughput, held: int) -> None:
        """Close the current window, and end the overload, or start or end a probe, if it is time.

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

    def _sustainable(self, since: float) -> bool:
        """Return whether the arrivals since then, within the horizon, could have been served."""
        asked = sum(asked for end, asked, *_ in self._windows if end > since)
        begun = sum(begun for end, _, begun, _ in self._windows if end > since)
        return asked <= self.TOLERANCE * begun + self.SPARE_ARRIVALS

    def _start_probe(self, now: float, interval: float, held: int) -> None:
        refused = len(self._connections)
        # A held request may be of a connection that was refused before, so these are between this and their sum.
        least = max(held, refused)
        limit = int(self.PROBE_MARGIN * (held + refused)) + 1
        self._connections.clear()
        self.counts_connections = False
        if limit > self.limit and least * interval <= self.max_wait:
            self._probing_since, self.limit = now, limit
        else:
            self._probe_at = now + self.PROBE_DELAY

    def _review_probe(self, now: float, since: float, horizon: float, refused: int) -> None:
        if refused > self.SPARE_ARRIVALS:
            self._fail_probe(now)
        elif now - since >= horizon:
            if self._sustainable(since + self.SETTLING * horizon):
                self.leave()
            else:
                self._fail_probe(now)

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
