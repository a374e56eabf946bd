"""The priorities of requests, in order of importance.

The names are Google's (`CRITICAL_PLUS` to `SHEDDABLE`: "Handling Overload", in Site Reliability Engineering by Beyer et
al., 2016). `policy/priority.py` schedules requests by these priorities.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = ["PRIORITIES", "Priority"]


class Priority(IntEnum):
    """The priority of a request; a lower number means a more important request."""

    CRITICAL_PLUS = 0
    """Requests that must not be missed."""
    CRITICAL = 1
    """Requests for which a user is waiting; this is the default."""
    SHEDDABLE_PLUS = 2
    """Requests that can be answered later."""
    SHEDDABLE = 3
    """Requests whose clients can do without a response."""


PRIORITIES: Final[dict[str, Priority]] = {priority.name.lower(): priority for priority in Priority}
"""The priorities, by the names that options and headers use."""
