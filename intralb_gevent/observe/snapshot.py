"""An immutable snapshot of a whole balancer, for metrics, admin pages, logs, tests and the load report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..policy.lifecycle import Outcome
from .stats import Histogram

__all__ = ["Condition", "Durations", "LaneSnapshot", "Snapshot", "WorkerSnapshot"]

Condition = Literal["serving", "draining", "stopped"]


@dataclass(frozen=True)
class Durations:
    """A summary of a histogram; all values except `count` are in seconds."""

    count: int
    mean: float
    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, histogram: Histogram) -> Durations:
        """Return the summary of a histogram."""
        mean = histogram.total / histogram.count if histogram.count else 0.0
        return cls(histogram.count, mean, histogram.quantile(0.5), histogram.quantile(0.99), histogram.longest)


@dataclass(frozen=True)
class WorkerSnapshot:
    """One worker: its jobs, the slots it has created, and their sessions."""

    id: int
    lane: str
    """Name of the worker's lane: the path of a route or of a mounted application; "" for the general lane."""
    queued: int
    running: int
    slots: int
    sessions: int
    retiring: bool


@dataclass(frozen=True)
class LaneSnapshot:
    """One lane (dedicated workers for some requests), and the state of its admission control."""

    name: str
    """Path of the lane's route or mounted application; "" for the general lane, which gets all other requests."""
    limit: int
    """Current maximum number of concurrently running jobs: the number of slots, or less while the loop is late."""
    overloaded: str
    """Highest priority that is overloaded; "" if no priority is overloaded."""
    clients: int
    """Number of clients with queued or running jobs; 0 while the lane rejects no requests."""
    workers: int
    most_workers: int


@dataclass(frozen=True)
class Snapshot:
    """The state of the whole balancer at one moment.

    The equation `submitted == sum of outcomes + queued + running` always holds.
    """

    condition: Condition
    submitted: int
    queued: int
    running: int
    outcomes: dict[Outcome, int]
    shed_reasons: dict[str, int]
    workers: tuple[WorkerSnapshot, ...]
    lanes: tuple[LaneSnapshot, ...]
    most_workers: int
    """Maximum number of workers of all lanes together."""
    queue_wait: Durations
    run_time: Durations
    streams: int
    """Number of responses that are being streamed."""
    upgraded: int
    """Number of connections that applications have taken over, such as WebSockets."""
    given_up: int
    """Number of slots that were replaced because their handlers swallowed every abort."""
    hub_lag: Durations
    """Summary of the durations for which the event loop was busy without polling its sockets."""
    hub_blocked: int
    """Number of times that a handler or other code blocked the event loop for 0.1 seconds or more."""
    interrupts: str
    """The word "on" if CPU-bound handlers are interrupted; otherwise, the reason why they are not interrupted."""
    log_records_dropped: int
    """Number of log records of this process that were dropped because writing failed or was too slow."""
    saturation: float
    """Demand divided by capacity for the scarcest resource, as a mean over about ten seconds; 1 means full."""
    saturation_by_resource: dict[str, float]
    """The saturation of each resource: slots, hub, streams, upgrades and connections."""
    connections_moved: dict[str, int]
    """Number of connections that moved to other processes, by kind (`idle`, or `request` if a whole request moved,
    too)."""
    connections_received: dict[str, int]
    """Number of connections that moved here from other processes, by kind."""
    connections_returned: dict[str, int]
    """Number of failed attempts to move a connection, by reason; this process continued to serve the connection."""
    connections_not_moved: dict[str, int]
    """Number of connections that this process closed while it drained, because they could not move, by reason."""
    endings_dropped: int
    """Number of requests that were ended early but not reported to `on_ended`, because `on_ended` could not keep up."""

    @property
    def ended(self) -> int:
        """Number of jobs that have an outcome."""
        return sum(self.outcomes.values())

    @property
    def sessions(self) -> int:
        """Number of open database sessions."""
        return sum(worker.sessions for worker in self.workers)

    def as_dict(self) -> dict[str, Any]:
        """Return the snapshot as plain dictionaries and lists, ready for JSON."""
        return asdict(self)
