"""One frozen picture of a whole balancer: what metrics, pages, logs, tests and the load report read.

Decides which facts there are and what they are called. It must not know how they come about.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..policy.lifecycle import Outcome
from .stats import Histogram

__all__ = ["Condition", "Durations", "Snapshot", "WorkerSnapshot"]

Condition = Literal["serving", "draining", "stopped"]


@dataclass(frozen=True)
class Durations:
    """A histogram in five figures, all but the count in seconds."""

    count: int
    mean: float
    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, histogram: Histogram) -> Durations:
        """Sum up a histogram."""
        mean = histogram.total / histogram.count if histogram.count else 0.0
        return cls(histogram.count, mean, histogram.quantile(0.5), histogram.quantile(0.99), histogram.longest)


@dataclass(frozen=True)
class WorkerSnapshot:
    """One worker: its jobs, the slots it has spawned so far, and the sessions these hold."""

    id: int
    queued: int
    running: int
    slots: int
    sessions: int
    retiring: bool


@dataclass(frozen=True)
class Snapshot:
    """The whole balancer at one moment; submitted == sum of outcomes + queued + running, always."""

    condition: Condition
    submitted: int
    queued: int
    running: int
    outcomes: dict[Outcome, int]
    shed_reasons: dict[str, int]
    workers: tuple[WorkerSnapshot, ...]
    most_workers: int
    queue_wait: Durations
    run_time: Durations
    log_records_dropped: int

    @property
    def ended(self) -> int:
        """How many jobs have their outcome."""
        return sum(self.outcomes.values())

    @property
    def sessions(self) -> int:
        """How many database sessions are open."""
        return sum(worker.sessions for worker in self.workers)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain dictionaries and lists, ready for JSON."""
        return asdict(self)
