"""How much of a pool each class of requests may fill, and whose turn it is.

Decides from classes and counts. It must not know who gave a request its class, jobs or queues.

Each class finds less of the pool open to it than the one above, so that a crowd of the lower leaves room for the higher
before that arrives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from ..priority import Priority

__all__ = ["Turns", "places"]

SHARES: Final[tuple[float, ...]] = (1.0, 0.95, 0.75, 0.5)
"""How much of all places may be taken for one more of a class to be admitted."""


def places(capacity: int, priority: Priority, highest: Priority) -> int:
    """Return how many of `capacity` places may be taken by the time a request of this class has one.

    `highest` is the highest class that has come so far: for those above nothing is kept.
    """
    return capacity if priority <= highest else math.ceil(SHARES[priority] * capacity)


class Turns:
    """Whose turn it is among the classes that wait: strictly the highest, but for a small share.

    Every twentieth turn is that of `SHEDDABLE_PLUS`, if any of it waits, so that work which must be done some time is
    not put off for ever. `SHEDDABLE` has no such share: its clients can do without.
    """

    EVERY: Final = 20

    __slots__ = ("_passed_over",)

    def __init__(self) -> None:
        self._passed_over = 0

    def __repr__(self) -> str:
        return f"<Turns {self._passed_over} since the last of a lower class>"

    def next(self, waiting: Sequence[int]) -> Priority:
        """Return the class whose turn it is; `waiting` are the numbers that wait, by class, and one is above 0."""
        highest = next(priority for priority in Priority if waiting[priority])
        if highest >= Priority.SHEDDABLE_PLUS or not waiting[Priority.SHEDDABLE_PLUS]:
            self._passed_over = 0
            return highest
        self._passed_over += 1
        if self._passed_over < self.EVERY:
            return highest
        self._passed_over = 0
        return Priority.SHEDDABLE_PLUS
