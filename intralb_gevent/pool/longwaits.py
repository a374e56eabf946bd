"""Finds the running jobs of a pool that wait for long, such as long polls, and do not load the event loop.

Whenever the event loop has been busy for 10 ms without a pause, the watchdog samples every 5 ms which job is running. A
job without samples for `LONG_WAIT_SECONDS` counts as a long wait until its next sample, and does not count towards the
limit of running jobs. A path whose jobs compute after their waits has no long waits. Jobs that never compute for 10 ms
without a wait may count as long waits, too, but only while few of them run: together, they keep the loop busy for more
than 10 ms, and so are sampled.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from ..policy.longwaits import LONG_WAIT_SECONDS, LongWaitPaths

if TYPE_CHECKING:
    from .job import Job

__all__ = ["LongWaits"]

_SAMPLE_SECONDS: Final = 0.005


class LongWaits:
    """The long waits among the running jobs of a pool. Times are in `time.monotonic()` seconds."""

    __slots__ = ("_paths", "count")

    def __init__(self) -> None:
        self._paths = LongWaitPaths()
        self.count = 0
        """Number of running jobs that count as long waits."""

    def __repr__(self) -> str:
        return f"<LongWaits {self.count} jobs, {self._paths!r}>"

    def expects(self, environ: dict[str, Any], now: float) -> bool:
        """Return whether a request will probably be a long wait."""
        return self._paths.expects_wait(environ.get("PATH_INFO", ""), now)

    def add(self, job: Job) -> None:
        """Count a job as a long wait, until its end or its next sample."""
        job.waits_long = True
        self.count += 1

    def review(self, jobs: Iterable[Job], now: float) -> bool:
        """Find the long waits among the running jobs; return whether there are new ones.

        This method is called at every tick while the number of running jobs is limited.
        """
        found = False
        for job in jobs:
            if job.samples or job.streams_since is not None:
                self._remove(job, now)
            elif job.started is not None and now - max(job.started, job.sampled_at) >= LONG_WAIT_SECONDS:
                found = self._found(job, now) or found
        return found

    def _found(self, job: Job, now: float) -> bool:
        path = job.environ.get("PATH_INFO", "")
        if job.waits_long or self._paths.computes(path, now):
            return False
        self._paths.add_wait(path, now)
        self.add(job)
        return True

    def ended(self, job: Job, now: float) -> None:
        """Record a job that has ended."""
        run_time = 0.0 if job.started is None else now - job.started
        # All three are false for almost every job.
        if job.waits_long or job.samples or run_time >= LONG_WAIT_SECONDS:
            if job.streams_since is None and run_time - job.samples * _SAMPLE_SECONDS >= LONG_WAIT_SECONDS:
                self._paths.add_wait(job.environ.get("PATH_INFO", ""), now)
            self._remove(job, now)

    def _remove(self, job: Job, now: float) -> None:
        if job.samples:
            self._paths.add_samples(job.environ.get("PATH_INFO", ""), job.samples, now)
            job.samples = 0
        if job.waits_long:
            job.waits_long = False
            self.count -= 1
