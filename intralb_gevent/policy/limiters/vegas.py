"""How many jobs may run, by how many of them must be queueing somewhere behind us.

Decides from windows of time. It must not know jobs, nor where they queue.

The algorithm is that of TCP Vegas (Brakmo and Peterson, 1995) as Netflix's concurrency-limits has it (`VegasLimit`,
2018), with its constants. Of `limit` jobs, `limit x (1 - unloaded / present run time)` are queueing; the limit grows
while these are few and shrinks while they are many. There, a sample is one request. Here it is the least run time of a
window in which jobs have ended: as TCP Vegas takes the least of a round trip's samples, so that a few slow requests
among quick ones are not taken for a queue. The unloaded run time is the least ever, measured anew after 30 x limit
windows; there is no jitter in this, as there is in a crowd of clients, because one limiter has nobody to fall into
step with. What the pool sheds is no drop that would lower the limit: it is shed because the limit is low.

Its limits: what is measured anew under load is not unloaded, so the limit can drift upwards.
"""

from __future__ import annotations

import math
from typing import Final

from .window import Window

__all__ = ["VegasLimiter"]


class VegasLimiter:
    """Begins at `BEGINS`, or `most` (slots, at least 1) if these are fewer: it has nothing to compare with before."""

    BEGINS: Final = 20
    PROBES: Final = 30
    """The unloaded run time is measured anew after so many windows for each job of the limit."""
    FEW: Final = 3
    """Queueing jobs, in steps, below which the limit grows by one step; TCP Vegas's alpha."""
    MANY: Final = 6
    """Queueing jobs, in steps, above which it shrinks by one step; and the steps it grows by when none queues; beta."""

    def __init__(self, most: int) -> None:
        self.limit = min(self.BEGINS, most)
        """How many jobs may run at the same time."""
        self._most = most
        self._unloaded = math.inf
        self._windows = 0

    def __repr__(self) -> str:
        return f"<VegasLimiter {self.limit} of {self._most}, unloaded run time {self._unloaded:.6f}s>"

    def observe(self, window: Window) -> None:
        """Take note of a window; one in which no job ended is no sample, one of little use changes no limit."""
        present = window.least_run_time
        if present <= 0:
            return
        self._windows += 1
        if present < self._unloaded or self._windows >= self.PROBES * self.limit:
            self._unloaded = present
            self._windows = 0
        elif 2 * window.most_running >= self.limit:
            queueing = math.ceil(self.limit * (1 - self._unloaded / present))
            self.limit = max(1, min(self.limit + self._change(queueing), self._most))

    def resize(self, most: int) -> None:
        """Take note that the pool has `most` slots now."""
        self._most = most
        self.limit = min(self.limit, most)

    def _change(self, queueing: int) -> int:
        """Return by how much the limit changes; a step is one job below a limit of 100, two below 1000."""
        step = max(1, int(math.log10(self.limit)))
        if queueing <= step:
            return self.MANY * step
        if queueing < self.FEW * step:
            return step
        return -step if queueing > self.MANY * step else 0
