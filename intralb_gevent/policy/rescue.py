"""Decide to which process a request moves that finds no free slot in its own process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

__all__ = ["SETTLED_SECONDS", "SILENT_SECONDS", "Candidate", "candidates_in_order"]

STUCK_SECONDS: Final = 0.02
"""Seconds for which an event loop may be busy; one that is busy for longer may be blocked, and gets no requests."""

SILENT_SECONDS: Final = 1.0
"""Seconds without an update of its row after which a process counts as stopped or ended."""

SETTLED_SECONDS: Final = 1.0
"""Seconds for which a connection stays in a process after it has moved there with a request."""


class Candidate(NamedTuple):
    """The state of another process, as its row in the site's table shows it."""

    pid: int
    serves: bool
    """False while the process starts or drains."""
    free: int
    """Number of its free slots for the request."""
    promised: int
    """Number of requests that this process has sent there since the row was written; they will occupy slots."""
    connections: int
    busy_seconds: float
    """Seconds for which its event loop has been busy; 0 while the loop waits."""
    silent_seconds: float
    """Seconds since the last periodic update of the row."""

    @property
    def left(self) -> int:
        """Number of free slots that are not promised to other requests."""
        return self.free - self.promised

    @property
    def accepts(self) -> bool:
        """True if a request should move there."""
        responds = self.busy_seconds <= STUCK_SECONDS and self.silent_seconds <= SILENT_SECONDS
        return self.serves and responds and self.left > 0


def candidates_in_order(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the processes that should get a request, best first: that with the most free slots.

    Of several with as many free slots, the one with the fewest connections is the first.
    """
    possible = [each for each in candidates if each.accepts]
    return sorted(possible, key=lambda each: (-each.left, each.connections, each.pid))
