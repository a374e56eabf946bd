"""The interface of limiters, and the measurements that a limiter receives."""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ["Limiter", "Window"]


class Window(NamedTuple):
    """The measurements of one time window, usually 100 ms; times are in seconds.

    A window ends in the first iteration of the event loop after 100 ms, so the window is longer if the loop is late.
    """

    seconds: float
    """Length of the window."""
    least_lag: float | None
    """Minimum lateness of the event loop, which a 5 ms timer measures; None if there was no measurement."""
    most_running: int
    """Maximum number of jobs that were running at the same time."""
    ended: int
    """Number of jobs that have run to their end."""
    mean_run_time: float
    """Mean run time of the ended jobs, without long waits and the time after the first part of long streams; 0 if no
    job has ended."""
    least_run_time: float
    """Shortest run time of the ended jobs, measured in the same way; 0 if no job has ended."""
    shed: int
    """Number of jobs that were shed."""
    begun: int = 0
    """Number of jobs that were started."""
    backlogged: bool = False
    """True if at least one job was queued each time that the queue was sampled, which happens every 5 ms."""
    busy: float = 0.0
    """Share of the window for which the event loop was busy, from 0 to 1."""
    processor_seconds: float = 0.0
    """Processor time of the event loop's thread. If other processes use the processor, this is less than the time for
    which the loop was busy."""


class Limiter(Protocol):
    """Sets how many jobs of a pool may run at the same time, and adapts this limit with each observed window."""

    @property
    def limit(self) -> int:
        """Maximum number of jobs that may run at the same time, from 1 to the number of slots."""

    def observe(self, window: Window) -> None:
        """Process the measurements of a window that has ended; called once for each window."""

    def resize(self, most: int) -> None:
        """Adapt to a new number of slots, `most` (at least 1); the limit must never exceed it."""
