"""Decide how long to wait before starting another process after processes have failed.

A process that fails soon after its start would otherwise be restarted immediately, again and again, and use up the CPU.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["Backoff"]

FIRST_SECONDS: Final = 0.5
LONGEST_SECONDS: Final = 30.0

SETTLED_SECONDS: Final = 10.0
"""Seconds for which a process must be ready before all earlier failures are forgotten."""

MOST_AFTER_SERVING: Final = 2
"""If a process had been ready before it ended, the failure count is limited to this number, so that the replacement
starts within a second.

With longer delays, a request that crashes a process every few seconds would leave the site without any process.
"""

MOST_FIRST_STARTS: Final = 3
"""Number of failed starts in a row after which no process is started again, if no process was ever ready."""


class Backoff:
    """Counts consecutive failures; each failed start doubles the time until the next start."""

    def __init__(self) -> None:
        self.failures = 0
        self.not_before = -math.inf
        """Earliest time of the next start, in the seconds of the caller's clock."""
        self._last = -math.inf

    def __repr__(self) -> str:
        return f"<Backoff after {self.failures} failures>"

    def ended(self, now: float, started: float, ready: float | None) -> None:
        """Record the end of a process that started at `started`, and became ready at `ready` (None if it never did).

        If the process had been ready, it is replaced immediately, or after a second if there was a recent failure. If a
        process was started before the last failure, its end does not count as a further failure.
        """
        if ready is not None and now - ready >= SETTLED_SECONDS:
            self.reset()
        if started < self._last:
            return
        self.failures += 1
        if ready is not None:
            self.failures = min(self.failures, MOST_AFTER_SERVING)
        self._last = now
        if ready is None or self.failures > 1:
            self.not_before = now + min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(self.failures - 1, 16))

    def look(self, now: float, ready: float | None) -> None:
        """Forget all failures if a process that became ready at `ready` has run long enough since the last failure."""
        if self.failures and ready is not None and now - max(ready, self._last) >= SETTLED_SECONDS:
            self.reset()

    def reset(self) -> None:
        """Forget all failures."""
        self.failures, self.not_before = 0, -math.inf

    def hopeless(self, proven: bool) -> bool:
        """Return whether to stop starting processes; always False once a process has been ready (`proven`)."""
        return not proven and self.failures >= MOST_FIRST_STARTS
