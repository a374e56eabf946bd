"""Which worker gets a job, and which waiting job an idle slot takes.

Decides from loads and waiting times only; it must not know what a worker or a job is.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["least_busy", "oldest"]


def least_busy(loads: list[int], first: int) -> int:
    """Return the index of a smallest load (queued + running); ties go to the first one from `first` on.

    All workers of a pool have the same number of slots, so comparing loads compares load against slots.
    `loads` must not be empty and `first` must be one of its indices; pass the index after the last pick and
    ties rotate.
    """
    best, least = first, loads[first]
    for index in range(first + 1, len(loads)):
        if loads[index] < least:
            best, least = index, loads[index]
    for index in range(first):
        if loads[index] < least:
            best, least = index, loads[index]
    return best


def oldest(arrivals: Sequence[float | None]) -> int | None:
    """Return the index of the earliest arrival; None entries have nothing waiting; None if all are None."""
    best: int | None = None
    earliest = float("inf")
    for index, arrival in enumerate(arrivals):
        if arrival is not None and arrival < earliest:
            best, earliest = index, arrival
    return best
