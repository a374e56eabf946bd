"""How many users there are at each moment of a run.

Decides the shapes and where they end. It must not know locust, what a user does or what a clock is: the time comes in,
a number of users comes out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

__all__ = ["DEFAULT_USERS", "SHAPES", "SPIKE", "STEPS", "Shape", "users_at"]

STEPS: Final = 4
"""A step run climbs to its users in this many equal stairs, each as long as the others."""
SPIKE: Final = (0.3, 0.6)
"""A spike begins and ends at these shares of the time; what follows shows whether the server recovers."""
SPIKE_BASE: Final = 0.1
"""The share of the users that is there before and after the spike."""

Shape = Callable[[float, int], float]
"""Takes the share of the time that has passed (0 to 1) and the most users; returns how many there should be."""


def _steady(share: float, users: int) -> float:
    return users


def _step(share: float, users: int) -> float:
    stair = math.floor(share * STEPS) + 1
    return users * stair / STEPS


def _spike(share: float, users: int) -> float:
    begin, end = SPIKE
    return users if begin <= share < end else users * SPIKE_BASE


SHAPES: Final[dict[str, Shape]] = {"steady": _steady, "step": _step, "spike": _spike}
DEFAULT_USERS: Final = {"steady": 20, "step": 60, "spike": 200}
"""How many users a shape has at most, unless told otherwise."""


def users_at(shape: str, passed: float, seconds: float, users: int) -> int | None:
    """Return how many users there are `passed` seconds into a run of `seconds`; None when it is over."""
    if passed >= seconds:
        return None
    return max(1, round(SHAPES[shape](passed / seconds, users)))
