"""Finds the running jobs of a pool that wait for long, such as long polls, and hardly load the event loop.

While the number of running jobs is limited, `looptime.py` measures for how long each job keeps the loop busy. A job
that was quiet for `LONG_WAIT_SECONDS` counts as a long wait, and does not count towards the limit. If many jobs take
turns on a saturated loop, each of them hardly loads the loop. Therefore, a job is quiet only if it uses much less than
an equal share of the loop's time, and it is judged only after several iterations of the loop. The time of greenlets
that a job spawns is not measured, so a job with such greenlets never counts as a long wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from ..policy.longwaits import LONG_WAIT_SECONDS, LongWaitPaths, pattern
from .looptime import LEASE_SECONDS, RESUMED, measure

if TYPE_CHECKING:
    from .job import Job

__all__ = ["LongWaits"]

QUIET: Final = 0.1
"""Maximum share of the time for which all quiet jobs of a pool may keep the event loop busy together. If n jobs run, a
job is quiet if it uses at most 1/n of this share."""

LEAST_REVIEWS: Final = 3
"""Minimum number of reviews after which a job is judged. There is at most one review in an iteration of the event loop,
so a job that could run has run."""

COUNTED_SECONDS: Final = 2.0
"""Seconds of a long wait that count for its path. If all of a wait counted, a few hundred long polls would allow
CPU-bound requests to the same path to fill the event loop."""

START_SECONDS: Final = 0.02
"""Seconds for which a job that is expected to be a long wait may keep the loop busy before it waits. Otherwise, a
hundred long polls that start together would all count towards the limit for half a second, and no other job could
start. `LongWaitPaths` counts this time."""

UNPROVEN_EACH: Final = 4
"""Maximum number of expected long waits per recent long wait of a path. Otherwise, a single job that was taken for a
long wait could start a whole queue of jobs that load the loop."""


class LongWaits:
    """The long waits among the running jobs of a pool. Times are in `time.monotonic()` seconds."""

    __slots__ = ("_measured_since", "_paths", "_reviewed_at", "_spawned", "_unproven", "count")

    def __init__(self) -> None:
        self._paths = LongWaitPaths()
        self._unproven: dict[str, int] = {}
        """Number of running jobs by path that are expected to be long waits, and were not observed for long enough.
        Each path is counted by itself: long waits that keep starting on one path must not delay those of another."""
        self._reviewed_at = self._measured_since = 0.0
        self._spawned = False
        """Whether a job with spawned greenlets was found since the last call of `take_spawned`."""
        self.count = 0
        """Number of running jobs that count as long waits."""

    def __repr__(self) -> str:
        return f"<LongWaits {self.count} jobs, {self._paths!r}>"

    def expects(self, environ: dict[str, Any], now: float) -> bool:
        """Return whether a request will probably be a long wait."""
        path = _path(environ)
        waits = self._paths.expected_waits(path, now)
        return waits > 0 and self._unproven.get(pattern(path), 0) < UNPROVEN_EACH * waits

    def add_expected(self, job: Job, now: float) -> None:
        """Count a job that starts now as a long wait, until its end or until it is no longer quiet."""
        # Keep the path, because the application may change the environ.
        job.expected_path = path = pattern(_path(job.environ))
        self._unproven[path] = self._unproven.get(path, 0) + 1
        self._add(job, now)

    def _add(self, job: Job, now: float) -> None:
        job.waits_long, job.long_wait_since = True, now
        job.loop_share = 0.0
        self.count += 1

    def review(self, jobs: Iterable[Job], now: float) -> None:
        """Find the long waits among the running jobs.

        This method is called at every tick while the number of running jobs is limited.
        """
        if now - self._reviewed_at > LEASE_SECONDS:
            self._measured_since = now
        self._reviewed_at = now
        measure(now)
        running = list(jobs)
        most = QUIET / max(1, len(running))
        for job in running:
            self._judge(job, most, now)
            if job.streams_since is not None or job.loop_share > most:
                self._remove(job, now)
            elif not job.waits_long:
                self._paths.add_wait(_path(job.environ), now)
                self._add(job, now)

    def _judge(self, job: Job, most: float, now: float) -> None:
        """Compute the job's share of the loop's time, if the job has been observed for long enough or is not quiet."""
        since = max(job.started or now, job.loop_since, self._measured_since)
        self._charge_spawned(job, since, now)
        unproven = job.expected_path is not None
        allowed = START_SECONDS if unproven else most * LONG_WAIT_SECONDS
        job.reviews += 1
        if now - since >= LONG_WAIT_SECONDS and job.reviews >= LEAST_REVIEWS:
            share = job.loop_time / (now - since)
            if job.waits_long and share <= most and now - job.long_wait_since <= COUNTED_SECONDS:
                self._paths.add_wait(_path(job.environ), now)
            job.loop_share = 0.0 if unproven and job.loop_time <= allowed else share
        elif job.loop_time > allowed:
            # The share in such a short time says nothing, but the job is not quiet.
            job.loop_share = 1.0
        else:
            return
        self._prove(job)
        self._count_time(job, now)
        job.loop_since, job.reviews = now, 0

    def ended(self, job: Job, now: float) -> None:
        """Record a job that has ended."""
        # A running job may end another one, such as a queued job whose place it takes.
        if RESUMED[0] and job.started is not None:
            job.loop_time += now - RESUMED[0]
        # Both are false unless the number of running jobs is limited.
        if job.loop_time or job.waits_long:
            self._charge_spawned(job, max(job.started or now, job.loop_since), now)
            self._count_time(job, now)
            self._remove(job, now)

    def counted(self, job: Job, run_time: float, now: float) -> float:
        """Return the part of a job's run time for which the job has counted towards the limit of running jobs.

        The result is at least `LONG_WAIT_SECONDS`, or the run time if that is shorter, because only a job that has run
        beyond the limit from its start has counted for less.
        """
        waited = job.long_wait_seconds + (now - job.long_wait_since if job.waits_long else 0.0)
        return max(run_time - waited, min(run_time, LONG_WAIT_SECONDS))

    def take_spawned(self) -> bool:
        """Return whether jobs with spawned greenlets were found since the last call, while jobs were measured."""
        spawned, self._spawned = self._spawned, False
        return spawned

    def _charge_spawned(self, job: Job, since: float, now: float) -> None:
        """Assume that the greenlets that a job has spawned have kept the loop busy all the time since `since`."""
        if job.slot is not None and job.slot.greenlet.has_spawned:
            job.loop_time = now - since
            self._spawned = True

    def _prove(self, job: Job) -> None:
        """Stop counting a job as one that is only expected to be a long wait, if it was counted."""
        path, job.expected_path = job.expected_path, None
        if path is not None:
            self._unproven[path] -= 1
            if not self._unproven[path]:
                del self._unproven[path]

    def _count_time(self, job: Job, now: float) -> None:
        self._paths.add_time(_path(job.environ), job.loop_time, now)
        job.loop_time = 0.0

    def _remove(self, job: Job, now: float) -> None:
        if job.waits_long:
            self._prove(job)
            job.waits_long = False
            job.long_wait_seconds += now - job.long_wait_since
            self.count -= 1


def _path(environ: dict[str, Any]) -> str:
    """Return the whole path of a request, although mounts and middleware move parts of it to `SCRIPT_NAME`."""
    return f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
