"""Counts and times of jobs, kept as they happen.

Decides how they are summed up. It must not know what a job is or who reads the figures.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Final

from ..policy.lifecycle import OUTCOMES, Outcome
from ..stdlib import bisect_left

__all__ = ["Histogram", "Stats"]


class Histogram:
    """Durations in seconds, counted in buckets whose bounds grow by a quarter.

    A quantile is exact to one bucket, so at most 25 % too high. Shorter than 50 microseconds counts as that;
    longer than the last bound (about ten minutes) counts as the longest seen.
    """

    BOUNDS: Final = tuple(50e-6 * 1.25**step for step in range(73))

    __slots__ = ("_counts", "count", "longest", "total")

    def __init__(self) -> None:
        self._counts = [0] * (len(self.BOUNDS) + 1)
        self.count = 0
        self.total = 0.0
        self.longest = 0.0

    def __repr__(self) -> str:
        return f"<Histogram count={self.count} p50={self.quantile(0.5):.6f}s p99={self.quantile(0.99):.6f}s>"

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(self.BOUNDS, seconds)] += 1
        self.count += 1
        self.total += seconds
        if seconds > self.longest:
            self.longest = seconds

    def __add__(self, other: Histogram) -> Histogram:
        """Return the histogram of the durations of both."""
        both = Histogram()
        both._counts = [mine + others for mine, others in zip(self._counts, other._counts, strict=True)]
        both.count, both.total = self.count + other.count, self.total + other.total
        both.longest = max(self.longest, other.longest)
        return both

    def quantile(self, share: float) -> float:
        """Return the duration that `share` (0 to 1) of all durations do not exceed, in seconds; 0 if none."""
        if not self.count:
            return 0.0
        wanted = share * self.count
        index = next(i for i, reached in enumerate(accumulate(self._counts)) if reached >= wanted)
        return min(self.BOUNDS[index], self.longest) if index < len(self.BOUNDS) else self.longest


class Stats:
    """The running totals of one lane, or of several together."""

    __slots__ = ("_outcomes", "given_up", "queue_wait", "run_time", "shed", "shed_reasons", "submitted")

    def __init__(self) -> None:
        self.submitted = 0
        self.shed = 0
        """Jobs that were refused; counted apart from the other outcomes, as it must be cheap."""
        self.shed_reasons: dict[str, int] = {}
        self._outcomes: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self.given_up = 0
        """Slots whose applications could not be ended."""
        self.queue_wait = Histogram()
        self.run_time = Histogram()

    def __repr__(self) -> str:
        return f"<Stats submitted={self.submitted} ended={self.ended}>"

    def __add__(self, other: Stats) -> Stats:
        """Return the totals of both."""
        both = Stats()
        both.submitted = self.submitted + other.submitted
        both.given_up = self.given_up + other.given_up
        both.shed = self.shed + other.shed
        for outcome in both._outcomes:
            both._outcomes[outcome] = self._outcomes[outcome] + other._outcomes[outcome]
        for reasons in (self.shed_reasons, other.shed_reasons):
            for reason, count in reasons.items():
                both.shed_reasons[reason] = both.shed_reasons.get(reason, 0) + count
        both.queue_wait = self.queue_wait + other.queue_wait
        both.run_time = self.run_time + other.run_time
        return both

    @property
    def ended(self) -> int:
        """How many jobs have their outcome."""
        return self.shed + sum(self._outcomes.values())

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """How many jobs have had each outcome."""
        return {**self._outcomes, "shed": self.shed}

    def add(self, outcome: Outcome) -> None:
        """Count one job that has ended otherwise than refused."""
        self._outcomes[outcome] += 1

    def add_shed(self, reason: str) -> None:
        """Count one job that was refused, and why."""
        self.shed += 1
        self.shed_reasons[reason] = self.shed_reasons.get(reason, 0) + 1
