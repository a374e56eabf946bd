"""Decide to which other process a request moves if it finds no free slot in its own process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

__all__ = ["SETTLED_SECONDS", "SILENT_SECONDS", "Candidate", "candidates_in_order"]

STUCK_SECONDS: Final = 0.02
"""Maximum seconds for which an event loop may have been busy; a loop that has been busy for longer may be blocked, so
its process gets no requests."""

SILENT_SECONDS: Final = 1.0
"""Seconds after which a process that has not updated its row counts as stopped or ended."""

SETTLED_SECONDS: Final = 1.0
"""After a request has moved to another process, its connection stays in that process for at least this many seconds."""


class Candidate(NamedTuple):
    """The state of another process, as its row in the site's table shows it."""

    pid: int
    serves: bool
    """False while the process starts or drains."""
    free: int
    """Number of free slots that the candidate has for the request."""
    promised: int
    """Number of requests that have moved to the candidate since its row was written, and will occupy free slots."""
    connections: int
    busy_seconds: float
    """Seconds for which the candidate's event loop has been busy; 0 while the loop waits."""
    silent_seconds: float
    """Seconds since the last periodic update of the row."""

    @property
    def left(self) -> int:
        """Number of free slots that are not promised to other requests."""
        return self.free - self.promised

    @property
    def accepts(self) -> bool:
        """True if the candidate may get a request."""
        responds = self.busy_seconds <= STUCK_SECONDS and self.silent_seconds <= SILENT_SECONDS
        return self.serves and responds and self.left > 0


def candidates_in_order(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the processes that may get a request, the best first.

    Processes are ordered by their free slots, the most first, and then by their connections, the fewest first.
    """
    possible = [each for each in candidates if each.accepts]
    return sorted(possible, key=lambda each: (-each.left, each.connections, each.pid))
