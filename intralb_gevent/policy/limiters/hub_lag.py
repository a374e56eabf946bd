"""A concurrency limiter that reacts to a late or saturated event loop: additive increase, multiplicative decrease.

Jobs that wait for a database or a socket do not load the loop, however many there are. CPU-bound jobs share one core:
each additional CPU-bound job delays all other jobs and the loop itself, and no job ends sooner. The lateness of a timer
shows this problem; the queue length does not, because the jobs are running, not queued. The minimum lateness in a
window distinguishes a loop that is always late from a loop that was blocked once (as CoDel distinguishes a standing
queue from a burst).

The lateness does not show the problem if jobs wait often and compute for a short time after each wait, such as a
handler with twenty database queries and a millisecond of work after each. Twenty of these jobs make the loop only 20 ms
late, but each job then takes twenty times as long. Therefore, the limit also decreases while the loop is saturated,
that is, busy almost all the time, and the jobs take longer than `SLOW`. As long as the loop stays saturated, fewer
running jobs lose no throughput, and each ends sooner.

The steps are those of `AIMDLimit` in Netflix's concurrency-limits (2018). While the loop is late, the limit decreases
by a tenth. While the loop is on time, and at least half of the limit is used, the limit increases by one. This limiter
has three additional rules. The first two are needed because few measurement windows end while the loop is late. First,
a long window counts as several windows. Second, if the previous window was also late, the limit is first lowered to the
largest number of jobs that ran at once in the window. (A limit above this number has no effect.) A single stall, such
as an import, does not trigger the second rule. Third, while the loop is idle for half of the time, a large limit
increases by up to a tenth: after CPU-bound jobs, jobs that wait may need a hundred times the limit. The increase is
smaller if the jobs run for longer than a few windows, because jobs may wait first and load the loop at their end.

The limit is never below `ceil(throughput x latency)`. By Little's law, this product is the number of running jobs at
the greatest throughput and the least latency; a lower limit would reduce the throughput. (bRPC's auto limiter and the
BBR limiter of Kratos use the same product.) The latency is the least mean run time, not the least run time of a job: a
pool runs quick pages beside calls to other services that take a second. Both are measured over a second, because jobs
that have started together and share the loop also end together. Run times grow with the lateness of the loop. If run
times were measured only while the loop is late, `throughput x latency` would equal the current number of running jobs.
Therefore, the lower bound of the limit is at most the largest number of jobs that ran at once while the loop was on
time.

If the jobs change, for example from calls that wait to pages that compute, the greatest throughput is out of reach, and
a limit for it would let hundreds of CPU-bound jobs share a core. Therefore, the throughput in `throughput x latency` is
at most the number of jobs that a core can run in a second, computed from the processor time of the latest jobs. The
processor time is that of the loop's thread: if other processes make the loop late, the jobs need no more of it.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final, NamedTuple

from .window import Window

__all__ = ["HubLagLimiter"]


class _Seen(NamedTuple):
    """The values of one past window, from which `floor` is computed."""

    seconds: float
    ended: int
    run_time: float
    """Sum of the run times of the ended jobs."""
    throughput: float
    """Jobs ended per second, over `THROUGHPUT_SECONDS` before the end of the window."""
    latency: float
    """Mean run time of the jobs that ended in the same time; infinity if none did."""
    kept_up: int
    """Largest number of jobs that ran at once, if the loop was on time; otherwise 0."""
    processor_seconds: float


class HubLagLimiter:
    """Adapts its limit to the lateness of the loop.

    The limit starts at `most`, the number of slots (at least 1), so the limit has no effect until the loop is late.
    """

    LATE: Final = 0.020
    """Lateness in seconds: if a window's minimum lateness is above this value, too many jobs are running. The value is
    four periods of the 5 ms timer that measures the lateness."""
    IN_TIME: Final = 0.010
    """Lateness in seconds: if a window's minimum lateness is below this value, more jobs may run. Between `IN_TIME` and
    `LATE`, the limit stays the same, so that it can settle."""
    SATURATED: Final = 0.97
    """Share of a window for which a saturated loop is busy. A loop that waits is busy for clearly less."""
    SPARE: Final = 0.9
    """Share of a window: if the loop is busy for less, more jobs may run."""
    IDLE: Final = 0.5
    """Share of a window: if the loop is busy for less, twice as many jobs may run."""
    FAST_INCREASE: Final = 0.1
    """Largest increase while the loop is idle, as a share of the limit."""
    INCREASE_IN_RUN_TIME: Final = 0.5
    """Largest increase within one mean run time while the loop is idle, as a share of the limit."""
    SLOW: Final = 0.1
    """Mean run time in seconds above which too many jobs share a saturated loop. Shorter run times are hardly noticed,
    and with fewer running jobs, the loop would sometimes be idle."""
    USUAL_WINDOW: Final = 0.1
    """Usual length of a window, in seconds; a late window of n times this length decreases the limit n times."""
    DECREASE: Final = 0.9
    LEAST_FACTOR: Final = 0.5
    """A window never lowers the limit below this share of its value, however long the window is, because a single job
    may have blocked the loop."""
    THROUGHPUT_SECONDS: Final = 1.0
    """Number of seconds over which the throughput is measured."""
    REMEMBERED: Final = 100
    """Number of past windows whose extreme values determine `floor`. Together, 100 windows of 100 ms cover ten seconds,
    as in the limiter of Kratos. Linux's BBR (`tcp_bbr`, 2016) also renews its minimum round-trip time every ten
    seconds. Bursts and stalls are shorter than ten seconds, so they do not displace all earlier values. After a lasting
    change of the load, the old values expire within ten seconds."""
    LATEST: Final = 15
    """Number of latest windows over which the processor time of a job is measured. These are windows, not seconds, so
    that a job that blocks the loop for two seconds is measured together with other jobs."""
    COMPUTES: Final = 0.5
    """Share of the latest windows for which the loop's thread must have used a core; otherwise, the processor time of
    the jobs says nothing about the throughput."""

    def __init__(self, most: int) -> None:
        self.limit = most
        """Maximum number of jobs that may run at the same time."""
        self._most = most
        self._late_in_a_row = 0
        self._seen: deque[_Seen] = deque(maxlen=self.REMEMBERED)

    def __repr__(self) -> str:
        late = f"late for {self._late_in_a_row} windows"
        return f"<HubLagLimiter {self.limit} of {self._most}, floor {self.floor}, {late}>"

    @property
    def floor(self) -> int:
        """Smallest limit, between 1 and the number of slots, that allows the greatest recent throughput."""
        greatest = max((seen.throughput for seen in self._seen), default=0.0)
        throughput = min(greatest, self._possible_throughput())
        if not throughput:
            return 1
        latency = min(seen.latency for seen in self._seen)
        kept_up = min(self._most, max(seen.kept_up for seen in self._seen))
        needed = throughput * latency
        return max(1, math.ceil(needed) if needed < kept_up else kept_up)

    def observe(self, window: Window) -> None:
        """Adapt the limit to a window; a window without a lateness sample can change only the floor."""
        late = self._is_late(window)
        self._late_in_a_row = self._late_in_a_row + 1 if late else 0
        self._seen.append(self._remembered(window))
        limit = self._decreased(window) if late else self._increased(window)
        self.limit = min(max(limit, self.floor), self._most)

    def resize(self, most: int) -> None:
        """Adapt to a new number of slots.

        A limit that equals the old number of slots has no effect. This limit is set to the new number of slots, so that
        it still has no effect.
        """
        self.limit = most if self.limit == self._most else min(self.limit, most)
        self._most = most

    def _remembered(self, window: Window) -> _Seen:
        kept_up = window.least_lag is not None and not self._is_late(window)
        own_run_time = window.ended * window.mean_run_time
        seconds, ended, run_time = self._last_second(window.seconds, window.ended, own_run_time)
        return _Seen(
            seconds=window.seconds,
            ended=window.ended,
            run_time=own_run_time,
            throughput=ended / max(seconds, self.THROUGHPUT_SECONDS),
            latency=run_time / ended if ended else math.inf,
            kept_up=window.most_running if kept_up else 0,
            processor_seconds=window.processor_seconds,
        )

    def _possible_throughput(self) -> float:
        """Return the number of jobs like the latest ones that a core can run in a second; infinity if unknown."""
        latest = list(self._seen)[-self.LATEST :]
        used = sum(seen.processor_seconds for seen in latest)
        if not used or used < self.COMPUTES * sum(seen.seconds for seen in latest):
            return math.inf
        return sum(seen.ended for seen in latest) / used

    def _last_second(self, seconds: float, ended: int, run_time: float) -> tuple[float, int, float]:
        """Return the three sums over a window and the windows before it, back to `THROUGHPUT_SECONDS`."""
        for seen in reversed(self._seen):
            if seconds >= self.THROUGHPUT_SECONDS:
                break
            seconds, ended, run_time = seconds + seen.seconds, ended + seen.ended, run_time + seen.run_time
        return seconds, ended, run_time

    def _is_late(self, window: Window) -> bool:
        if window.least_lag is not None and window.least_lag > self.LATE:
            return True
        return window.busy >= self.SATURATED and self._run_time(window) > self.SLOW

    @staticmethod
    def _run_time(window: Window) -> float:
        """Return the mean run time; infinity if jobs were running, but none has ended."""
        return window.mean_run_time if window.ended or not window.most_running else math.inf

    def _decreased(self, window: Window) -> int:
        windows = max(1, round(window.seconds / self.USUAL_WINDOW))
        factor = max(self.LEAST_FACTOR, self.DECREASE**windows)
        felt = self.limit if self._late_in_a_row == 1 else min(self.limit, window.most_running)
        return int(felt * factor)  # Truncated, not rounded, so that the limit falls by at least 1.

    def _increased(self, window: Window) -> int:
        in_time = window.least_lag is not None and window.least_lag < self.IN_TIME
        in_time = in_time and (window.busy < self.SPARE or self._run_time(window) < self.SLOW / 2)
        used = 2 * window.most_running >= self.limit
        return self.limit + self._increase(window) if in_time and used else self.limit

    def _increase(self, window: Window) -> int:
        if window.busy >= self.IDLE or not window.ended:
            return 1
        increase = self.FAST_INCREASE
        if window.mean_run_time * increase > window.seconds * self.INCREASE_IN_RUN_TIME:
            increase = window.seconds * self.INCREASE_IN_RUN_TIME / window.mean_run_time
        return max(1, int(self.limit * increase))
