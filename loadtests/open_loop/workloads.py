"""The workloads: what is asked for, in which proportions, and how much of it can be done.

Decides requests and capacities. It must not know how servers are started or driven.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..side_by_side.servers import Server
from .applications import COMPUTING_SECONDS, CONNECTIONS, QUERY_SECONDS
from .ceiling import Costs

__all__ = ["WORKLOADS", "Workload"]

_DATABASE: Final = CONNECTIONS / 0.050
_PROCESSOR: Final = 1 / COMPUTING_SECONDS


@dataclass(frozen=True)
class Workload:
    """Some paths that are asked for at random, each as often as it weighs."""

    name: str
    title: str
    paths: Mapping[str, float]
    capacity: float
    """Requests per second that ten connections, or a core, could do if nothing else took time."""
    slots: int = 0
    """How many requests a server is told to run at the same time, if it can be told; 0: nothing is said."""
    slots_path: str = ""
    """The path that they are for, where others need something else."""

    def flags(self, server: Server) -> Sequence[str]:
        """Return how a server is told of the slots."""
        if not self.slots:
            return ()
        return server.slots_below(self.slots, self.slots_path) if self.slots_path else server.slots(self.slots)

    clients: int = CONNECTIONS
    """How many that wait for each answer keep busy what it needs, without a queue worth the name."""

    @property
    def connected(self) -> Mapping[str, float]:
        """Those of its paths that need one of the connections."""
        return {path: weight for path, weight in self.paths.items() if path in QUERY_SECONDS}

    def connection_seconds(self, counts: Mapping[str, float]) -> float:
        """Return for how long a request needs a connection, in the mean over so many for each path."""
        needed = sum(count * QUERY_SECONDS.get(path, 0.0) for path, count in counts.items())
        return needed / sum(counts.values()) if counts else 0.0

    def chance(self, requests: float) -> float:
        """Return by which share the work of so many requests, sent at random moments, varies by chance.

        It is the standard deviation of a sum of a random number of random terms (a compound Poisson process) over its
        mean. Where some need a connection, it is the connections' work.
        """
        needing = self.connected or self.paths
        seconds = {path: QUERY_SECONDS.get(path, COMPUTING_SECONDS) for path in needing}
        weight = sum(needing.values())
        mean = sum(needing[path] * seconds[path] for path in needing) / weight
        square = sum(needing[path] * seconds[path] ** 2 for path in needing) / weight
        return math.sqrt(square / (requests * weight)) / mean

    def capacity_at(self, costs: Costs | None, connected: float | None) -> float:
        """Return the capacity where a request costs what was measured, and the connections allow so many per second."""
        return min(connected or self.capacity, 1 / costs.request if costs else self.capacity)


WORKLOADS: Final = {
    workload.name: workload
    for workload in (
        Workload("db", "Ten connections of 50 ms", {"/db": 1.0}, _DATABASE, CONNECTIONS),
        Workload("cpu", "5 ms of Python", {"/cpu": 1.0}, _PROCESSOR, clients=2),
        # Half of them need connections, half the core: both are used up at the same rate.
        Workload(
            "mixed",
            "Half db, half cpu",
            {"/db": 0.5, "/cpu": 0.5},
            2 * min(_DATABASE, _PROCESSOR),
            CONNECTIONS,
            "/db",
        ),
        Workload(
            "bimodal",
            "Ten connections, 95 % of 5 ms and 5 % of 300 ms",
            {"/short": 0.95, "/long": 0.05},
            CONNECTIONS / (0.95 * 0.005 + 0.05 * 0.300),
            CONNECTIONS,
        ),
    )
}
"""The workloads, in the order in which they are measured."""
