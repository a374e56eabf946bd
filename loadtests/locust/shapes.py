"""Pure functions for the number of users at each time of a run, and for the load from these users."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

STEPS: Final = 4
"""Number of equal steps in which a step run reaches its maximum number of users."""
SPIKE: Final = (0.3, 0.6)
"""Start and end of the spike, as shares of the run time. The time after it shows whether the server recovers."""
SPIKE_BASE: Final = 0.1
"""Share of the maximum number of users before and after the spike."""
SHAPES: Final[dict[str, Callable[[float], float]]] = {
    "steady": lambda share: 1.0,
    "step": lambda share: (math.floor(share * STEPS) + 1) / STEPS,
    "spike": lambda share: 1.0 if SPIKE[0] <= share < SPIKE[1] else SPIKE_BASE,
}
"""Functions that map the elapsed share of the run time (0 to 1) to a share of the maximum number of users."""
DEFAULT_USERS: Final = {"steady": 20, "step": 60, "spike": 200}
"""Default maximum number of users, by shape."""

# Parameters of the overload.
PATIENCE_SECONDS: Final = 2.0
"""Timeout of a user's request, in seconds."""
PERIOD_SECONDS: Final = 2.5
"""Interval between a user's requests, in seconds. This interval exceeds the timeout, so a late response
cannot delay the next request."""
QUIET_LOAD: Final = 0.8
"""Load before and after the spike, as a multiple of the capacity."""
CAPACITY: Final = 200
"""Default of the server's capacity, in requests per second."""
PRIORITY_HEADER: Final = "X-Intralb-Priority"
CLASSES: Final = {"critical": 1, "unmarked": 1, "sheddable": 18}
"""Number of users of each priority, out of twenty. Critical and unmarked requests alone never exceed the capacity."""


def users_at(shape: str, passed: float, seconds: float, users: int) -> int | None:
    """Return the number of users `passed` seconds into a run of `seconds`; None after the end of the run."""
    return None if passed >= seconds else max(1, round(users * SHAPES[shape](passed / seconds)))


def most_users(capacity: float) -> int:
    """Return the number of users in the spike, for a server with this capacity in requests per second."""
    return max(1, round(capacity * QUIET_LOAD * PERIOD_SECONDS / SPIKE_BASE))


def quiet_users(most: int) -> int:
    """Return the number of users before and after a spike of `most` users."""
    return users_at("spike", 0.0, 1.0, most) or 1
