"""How many jobs may run, by how late the event loop is: additive increase, multiplicative decrease.

Decides from windows of time. It must not know the event loop, the probe in it, or jobs.

Jobs that wait for a database or a socket cost the loop nothing, however many they are. Jobs that compute share one
core: each more makes all the others, and the loop itself, later by its own turn, and none is done sooner. No queue
shows this, since all of them run. The lateness of a timer shows it, and the least of a window tells a loop that is
always late from one that was held up once (as CoDel tells a standing queue from a burst).

The steps are those of `AIMDLimit` in Netflix's concurrency-limits (2018): a tenth less when it is too much, one more
when it is not and at least half the limit is used. Two things are added, because a late loop makes windows rare: a
window that lasted as long as several counts as so many; and from the second late window in a row on, the limit is
counted from what has run at most, since a limit that nobody reaches holds nobody back. A single stall, such as an
import, does not do this.

The limit is never under `ceil(throughput x latency)`: by Little's law so many jobs run when the greatest throughput is
reached at the least latency, and with fewer, slots would be missing (the product is that of bRPC's auto limiter and of
the BBR limiter of Kratos). Run times grow with the lateness itself; measured in a late loop alone the product would be
what runs already, whatever that is. So it counts only up to the most jobs that have run while the loop kept up.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final, NamedTuple

from .window import Window

__all__ = ["HubLagLimiter"]


class _Seen(NamedTuple):
    """What is remembered of a window."""

    throughput: float
    least_run_time: float
    kept_up: int


class HubLagLimiter:
    """Begins at `most` (slots, at least 1), so that it is not felt before the loop is late."""

    LATE: Final = 0.020
    """Seconds of lateness, in the best moment of a window, above which too much runs: four beats of a 5 ms probe."""
    IN_TIME: Final = 0.010
    """Seconds of lateness below which more may run. In between nothing changes, so that the limit can come to rest."""
    USUAL_WINDOW: Final = 0.1
    """Seconds for which one decrease is meant."""
    DECREASE: Final = 0.9
    LEAST_FACTOR: Final = 0.5
    """What is left of a limit at least after one window, however long: it may have been one job that held the loop."""
    REMEMBERED: Final = 100
    """Windows for which extremes hold: ten seconds of 100 ms each, as in the limiter of Kratos; Linux's BBR (`tcp_bbr`,
    2016) measures its least round trip anew after as long. A burst or a stall passes sooner and takes nothing from what
    was learnt; a load of another nature is held to what the last one needed for no longer than that."""

    def __init__(self, most: int) -> None:
        self.limit = most
        """How many jobs may run at the same time."""
        self._most = most
        self._late_in_a_row = 0
        self._seen: deque[_Seen] = deque(maxlen=self.REMEMBERED)

    def __repr__(self) -> str:
        late = f"late for {self._late_in_a_row} windows"
        return f"<HubLagLimiter {self.limit} of {self._most}, floor {self.floor}, {late}>"

    @property
    def floor(self) -> int:
        """How many jobs must be allowed to run for the greatest throughput of late; from 1 to the number of slots."""
        throughput = max((seen.throughput for seen in self._seen), default=0.0)
        if not throughput:
            return 1
        latency = min(seen.least_run_time for seen in self._seen)
        kept_up = min(self._most, max(seen.kept_up for seen in self._seen))
        needed = throughput * latency
        return max(1, math.ceil(needed) if needed < kept_up else kept_up)

    def observe(self, window: Window) -> None:
        """Take note of a window; one without a sample of the lateness changes the floor at most."""
        late = window.least_lag is not None and window.least_lag > self.LATE
        self._late_in_a_row = self._late_in_a_row + 1 if late else 0
        self._seen.append(self._remembered(window))
        limit = self._decreased(window) if late else self._increased(window)
        self.limit = min(max(limit, self.floor), self._most)

    def resize(self, most: int) -> None:
        """Take note that the pool has `most` slots now; a limit that was not felt is not felt afterwards either."""
        self.limit = most if self.limit == self._most else min(self.limit, most)
        self._most = most

    def _remembered(self, window: Window) -> _Seen:
        kept_up = window.least_lag is not None and window.least_lag <= self.LATE
        return _Seen(
            throughput=window.ended / window.seconds if window.seconds > 0 else 0.0,
            least_run_time=window.least_run_time if window.ended else math.inf,
            kept_up=window.most_running if kept_up else 0,
        )

    def _decreased(self, window: Window) -> int:
        windows = max(1, round(window.seconds / self.USUAL_WINDOW))
        factor = max(self.LEAST_FACTOR, self.DECREASE**windows)
        felt = self.limit if self._late_in_a_row == 1 else min(self.limit, window.most_running)
        return int(felt * factor)  # Cut off, not rounded: it is less by at least one.

    def _increased(self, window: Window) -> int:
        in_time = window.least_lag is not None and window.least_lag < self.IN_TIME
        used = 2 * window.most_running >= self.limit
        return self.limit + 1 if in_time and used else self.limit
