"""Saturation: the used share of a server's capacity, as one number for autoscalers, load balancers and operators.

The saturation of a resource is its demand divided by its capacity. A saturation of 0 means idle, and 1 means full;
above 1, requests wait or are rejected. The saturation of a process is that of its scarcest resource. The saturation of
a site is the mean saturation of its processes. The metrics, the admin pages, HAProxy's agent check and the ORCA header
for Envoy all use this number.

Sessions are not a resource here: each slot has a separate session, so sessions are never scarcer than slots.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

__all__ = ["RESOURCES", "SPARE", "Mean", "Saturation", "slot_ratio", "weight_percent"]

RESOURCES: Final = ("slots", "hub", "streams", "upgrades", "connections")
"""Names of the resources.

- slots: running and queued requests, divided by the number of requests that may run; the largest ratio of all lanes
- hub: share of time for which the event loop was busy
- streams: streamed responses, divided by `max_streams`
- upgrades: connections that applications have taken over, divided by `max_upgraded`
- connections: client connections, divided by `max_connections`
"""

SPARE: Final = 0.7
"""Saturation up to which a server counts as having capacity to spare; the remaining capacity absorbs random peaks."""

MOST: Final = 10.0
"""Largest saturation that is reported; a larger measured value would be mostly due to chance."""

LEAST_WEIGHT: Final = 1


class Mean:
    """An exponentially weighted mean over time, in which the mean age of the values is `AGE_SECONDS`.

    An unweighted mean of the last ten seconds has the same mean age, but requires storing all values of this period.
    """

    AGE_SECONDS: Final = 5.0

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def __repr__(self) -> str:
        return f"<Mean {self.value:.4f}>"

    def add(self, value: float, seconds: float) -> None:
        """Add a value that was constant for the last `seconds` seconds."""
        self.value += -math.expm1(-seconds / self.AGE_SECONDS) * (value - self.value)


class Saturation:
    """The saturation of each resource of one process, as means over about ten seconds."""

    __slots__ = ("_means",)

    def __init__(self) -> None:
        self._means = {name: Mean() for name in RESOURCES}

    def __repr__(self) -> str:
        return f"<Saturation {self.value:.3f}: {self.by_resource}>"

    def add(self, ratios: Mapping[str, float], seconds: float) -> None:
        """Add the ratio of demand to capacity of each resource in the last `seconds` seconds."""
        for name, mean in self._means.items():
            mean.add(min(MOST, ratios[name]), seconds)

    @property
    def by_resource(self) -> dict[str, float]:
        """The saturation of each resource, rounded to four decimals."""
        return {name: round(mean.value, 4) for name, mean in self._means.items()}

    @property
    def value(self) -> float:
        """The saturation of the scarcest resource, rounded to four decimals."""
        return max(self.by_resource.values())


def slot_ratio(running: int, queued: int, capacity: int, rejected: float) -> float:
    """Return demand divided by capacity for the slots of one lane.

    `capacity` is the number of requests that may run at the same time once the lane has its maximum number of workers.
    `rejected` is the number of rejected requests per request that ran. Rejected requests count as demand, because they
    would have used as much capacity as the requests that ran.
    """
    return min(MOST, (running + queued) / max(1, capacity) * (1 + rejected))


def weight_percent(saturation: float) -> int:
    """Return the percentage of a server's usual requests that a load balancer should send to this server.

    The percentage is 100 up to a saturation of `SPARE`; above `SPARE`, it is inversely proportional to the saturation.
    The load of each server therefore converges to its capacity. The percentage is never 0, so that requests are still
    sent if all servers are overloaded.
    """
    return 100 if saturation <= SPARE else max(LEAST_WEIGHT, round(100 * SPARE / saturation))
