"""Job routing selects the worker that gets a new job, and the queued job that an idle slot runs next."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["least_busy", "oldest"]


def least_busy(loads: list[int], first: int) -> int:
    """Return the index of the smallest load; among equal loads, return the first one from index `first` on, cyclically.

    A load is the number of a worker's queued and running jobs. All workers of a pool have the same number of slots, so
    their loads are comparable. `loads` must not be empty, and `first` must be one of its indices. To rotate between
    equal loads, pass the index after the last result as `first`.
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
    """Return the index of the earliest arrival; None if all arrivals are None, that is, if all queues are empty."""
    best: int | None = None
    earliest = float("inf")
    for index, arrival in enumerate(arrivals):
        if arrival is not None and arrival < earliest:
            best, earliest = index, arrival
    return best
