"""One frozen picture of a whole balancer: what metrics, pages, logs, tests and the load report read.

Decides which facts there are and what they are called. It must not know how they come about.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..policy.lifecycle import Outcome
from .stats import Histogram

__all__ = ["Condition", "Durations", "LaneSnapshot", "Snapshot", "WorkerSnapshot"]

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
    lane: str
    """The name of its lane: "" of the one for all requests that have no other, else its path."""
    queued: int
    running: int
    slots: int
    sessions: int
    retiring: bool


@dataclass(frozen=True)
class LaneSnapshot:
    """Workers of their own for some of the requests, and what holds requests back there."""

    name: str
    """The path of its requests; "" for all that have no lane of their own."""
    limit: int
    """How many may run at the same time now: the slots, or fewer while the event loop is late."""
    overloaded: str
    """The highest class that has waited too long for a while; "" if none has."""
    clients: int
    """Among how many clients places are shared, while there are too few; else 0."""
    workers: int
    most_workers: int


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
    lanes: tuple[LaneSnapshot, ...]
    most_workers: int
    """Of all lanes together."""
    queue_wait: Durations
    run_time: Durations
    streams: int
    """Responses that are streamed now."""
    upgraded: int
    """Connections that applications have taken over, such as WebSockets."""
    given_up: int
    """Slots that were replaced, as their handlers swallowed every abort."""
    hub_lag: Durations
    """How long the event loop was busy in one go."""
    hub_blocked: int
    """How often a handler or other code kept it for a tenth of a second or more."""
    interrupts: str
    """Whether handlers that never wait are interrupted: "on", or why not."""
    log_records_dropped: int
    """Records of the log of this process that could not be written, or not in time."""
    endings_dropped: int
    """Requests that were ended and not reported, as `on_ended` could not keep up."""

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
