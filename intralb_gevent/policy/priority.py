"""Priority scheduling limits how much of a pool each priority may fill, and selects the priority to serve next.

A lower priority may fill less of the pool than a higher one, so that a burst of low-priority requests leaves capacity
for later requests of high priority.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from ..priority import Priority

__all__ = ["PriorityScheduler", "capacity_of"]

SHARES: Final[tuple[float, ...]] = (1.0, 0.95, 0.75, 0.5)
"""Share of the pool's capacity, for each priority, beyond which no further request of that priority is admitted."""


def capacity_of(capacity: int, priority: Priority, highest: Priority) -> int:
    """Return the number of requests, at most `capacity`, up to which the pool admits requests of this priority.

    `highest` is the highest priority that has arrived so far; no capacity is reserved for priorities above it.
    """
    return capacity if priority <= highest else math.ceil(SHARES[priority] * capacity)


class PriorityScheduler:
    """Selects the priority to serve next: with one exception, the highest priority that has queued jobs.

    Every twentieth job has the priority `SHEDDABLE_PLUS` if a job of this priority is queued, because these jobs must
    be answered eventually. Jobs of the priority `SHEDDABLE` may starve, because their clients can do without a
    response.
    """

    EVERY: Final = 20

    __slots__ = ("_passed_over",)

    def __init__(self) -> None:
        self._passed_over = 0

    def __repr__(self) -> str:
        return f"<PriorityScheduler {self._passed_over} since the last of a lower class>"

    def next(self, waiting: Sequence[int]) -> Priority:
        """Return the priority to serve next.

        `waiting` has the number of queued jobs for each priority; at least one of these numbers must be above 0.
        """
        highest = next(priority for priority in Priority if waiting[priority])
        if highest >= Priority.SHEDDABLE_PLUS or not waiting[Priority.SHEDDABLE_PLUS]:
            self._passed_over = 0
            return highest
        self._passed_over += 1
        if self._passed_over < self.EVERY:
            return highest
        self._passed_over = 0
        return Priority.SHEDDABLE_PLUS
