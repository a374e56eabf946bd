"""The classes of requests: which matter more than others.

Decides their names and their order. It must not know what follows from them (`policy/priority.py`).

They are Google's (`CRITICAL_PLUS` to `SHEDDABLE`: "Handling Overload", in Site Reliability Engineering by Beyer and
others, 2016).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = ["PRIORITIES", "Priority"]


class Priority(IntEnum):
    """The class of a request; the lower number matters more."""

    CRITICAL_PLUS = 0
    """What nobody should miss."""
    CRITICAL = 1
    """What somebody waits for: everything that has not been given another class."""
    SHEDDABLE_PLUS = 2
    """What may come later."""
    SHEDDABLE = 3
    """What its clients can do without."""


PRIORITIES: Final[dict[str, Priority]] = {priority.name.lower(): priority for priority in Priority}
"""The classes by the names that options and headers give them."""
