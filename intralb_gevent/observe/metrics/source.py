"""The object from which the metrics of a process are read at one moment: its balancer, servers and event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from ...http.server import WSGIServer
from ..stats import Histogram

if TYPE_CHECKING:
    from ...aborts.watchdog import Watchdog
    from ...pool.balancer import LoadBalancer
    from ...pool.lane import Lane
    from .readings import Value

__all__ = ["Labelled", "Source", "lane_label", "of_lanes"]

Labelled = Iterable[tuple[tuple[str, ...], "Value"]]
"""Values of a metric, each with the values of its labels."""


def lane_label(name: str) -> str:
    """Return the value of the label `lane`: the name of the lane, or "general" for the general lane."""
    return name or "general"


@dataclass
class Source:
    """The balancer of this process, and the time of the reading in `time.monotonic()` seconds."""

    balancer: LoadBalancer
    supervisor: Mapping[str, Any] = field(default_factory=dict)
    """State of the supervisor and its processes, as `/processes` shows this state; empty without a supervisor."""
    now: float = field(default_factory=monotonic)

    @property
    def lanes(self) -> list[Lane]:
        """All lanes, the general one first."""
        return self.balancer.intake.lanes

    @property
    def servers(self) -> list[WSGIServer]:
        """The servers of this package that now submit requests; empty if another WSGI server calls the balancer."""
        return [server for server in self.balancer.intake.servers if isinstance(server, WSGIServer)]

    @property
    def watchdog(self) -> Watchdog | None:
        """The latest watchdog, whose counts remain after the shutdown; None before the first request."""
        return self.balancer.intake.context.watchdog

    @property
    def lag(self) -> Histogram:
        """Histogram of the busy periods of the event loop."""
        watchdog: Any = self.watchdog
        lag: Histogram = Histogram() if watchdog is None else watchdog.lag
        return lag


def of_lanes(read: Callable[[Lane], float]) -> Callable[[Source], Labelled]:
    """Return a function that yields, for each lane, the number that `read` returns."""
    return lambda source: ((((lane_label(lane.name)),), read(lane)) for lane in source.lanes)
