"""The priorities of requests, in order of importance.

The names, `CRITICAL_PLUS` to `SHEDDABLE`, come from Google ("Handling Overload", in Site Reliability Engineering by
Beyer et al., 2016). `policy/priority.py` schedules requests by these priorities.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = ["PRIORITIES", "Priority"]


class Priority(IntEnum):
    """The priority of a request; a lower number means a more important request."""

    CRITICAL_PLUS = 0
    """Requests that must be answered, even if less important requests are rejected instead."""
    CRITICAL = 1
    """Requests for which a user is waiting; this is the default."""
    SHEDDABLE_PLUS = 2
    """Requests that can be answered later."""
    SHEDDABLE = 3
    """Requests whose clients can do without a response."""


PRIORITIES: Final[dict[str, Priority]] = {priority.name.lower(): priority for priority in Priority}
"""All priorities, keyed by the lower-case names that options and header fields use."""
