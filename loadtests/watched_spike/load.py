"""What comes: how many users there are, how often each asks, how long it waits, and of which class it is.

Decides these numbers. It must not know locust, the server, or how answers are counted.
"""

from __future__ import annotations

from typing import Final

from ..shapes import SPIKE_BASE, users_at

__all__ = [
    "CAPACITY",
    "CLASSES",
    "PATIENCE_SECONDS",
    "PERIOD_SECONDS",
    "PRIORITY_HEADER",
    "QUIET_LOAD",
    "most_users",
    "quiet_users",
]

PATIENCE_SECONDS: Final = 2.0
"""How long a user waits for an answer before it gives up."""
PERIOD_SECONDS: Final = 2.5
"""How often a user asks. Longer than its patience, so that no answer, however late, can hold up the next request."""
QUIET_LOAD: Final = 0.8
"""How many times the capacity is sent before and after the spike."""
CAPACITY: Final = 200
"""Requests per second that the server can do, unless told otherwise."""
PRIORITY_HEADER: Final = "X-Intralb-Priority"
CLASSES: Final = {"critical": 1, "unmarked": 1, "sheddable": 18}
"""How many of twenty users are of each class. All but the sheddable are no more than can be done, even in the spike."""


def most_users(capacity: float) -> int:
    """Return how many users there are in the spike, for a server that can do so many requests per second."""
    return max(1, round(capacity * QUIET_LOAD * PERIOD_SECONDS / SPIKE_BASE))


def quiet_users(most: int) -> int:
    """Return how many users there are before and after it."""
    users = users_at("spike", 0.0, 1.0, most)
    assert users is not None
    return users
