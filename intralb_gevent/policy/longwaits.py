"""Remembers the paths whose requests wait for a long time and hardly load the event loop, such as long polls.

Such requests need not count towards the limit of running requests, and need not wait for other requests to end. That a
request waits is only known after a while, so a new request is judged by earlier requests with the same path.
"""

from __future__ import annotations

import math
import re
from typing import Final

__all__ = ["LONG_WAIT_SECONDS", "LongWaitPaths", "pattern"]

LONG_WAIT_SECONDS: Final = 0.5
"""Seconds for which a running request must have been quiet to count as a long wait. Waits for a database are usually
much shorter."""

_PATTERN_LENGTH: Final = 200
"""Maximum length of a remembered path, in characters."""
_find_digit: Final = re.compile("[0-9]").search


def pattern(path: str) -> str:
    """Return the path with a star in place of each part that contains a digit, because such a part is usually an id."""
    parts = path[:_PATTERN_LENGTH].split("/")
    return "/".join(["*" if _find_digit(part) else part for part in parts])


class _Record:
    """What is known about a path; both numbers decay."""

    __slots__ = ("at", "seconds", "waits")

    def __init__(self, now: float) -> None:
        self.at = now
        self.waits = 0.0
        self.seconds = 0.0

    def is_current(self, now: float) -> bool:
        """Return whether the path is still remembered."""
        return now - self.at <= LongWaitPaths.MEMORY_SECONDS

    @property
    def computes(self) -> bool:
        """Whether the requests keep the event loop busy for too long."""
        return self.seconds > LongWaitPaths.SECONDS_EACH * self.waits

    def add(self, waits: int, seconds: float, now: float) -> None:
        """Add to both numbers."""
        factor = math.exp(-(now - self.at) / LongWaitPaths.DECAY_SECONDS)
        self.waits = self.waits * factor + waits
        self.seconds = self.seconds * factor + seconds
        self.at = now


class LongWaitPaths:
    """The paths of recent long waits, with the time for which all requests to these paths keep the event loop busy.

    Parts of a path that contain digits are ignored: `/jobs/17` and `/jobs/18` are the same path.

    Times are in `time.monotonic()` seconds.
    """

    MOST_PATHS: Final = 1000
    """Maximum number of paths; the path that was added first is forgotten first."""
    DECAY_SECONDS: Final = 30.0
    """Age in seconds at which a long wait or a measured time has a weight of 1/e."""
    SECONDS_EACH: Final = 0.0025
    """Maximum number of seconds per long wait for which requests to the path may keep the event loop busy. The caller
    counts a request that waits for n times `LONG_WAIT_SECONDS` as n long waits, up to a maximum."""
    MEMORY_SECONDS: Final = 120.0
    """Seconds after the last long wait or measured time for which a path is remembered."""

    __slots__ = ("_records",)

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def __repr__(self) -> str:
        return f"<LongWaitPaths {len(self._records)} paths>"

    def add_wait(self, path: str, now: float) -> None:
        """Count a request to the path that has waited for another `LONG_WAIT_SECONDS`."""
        path = pattern(path)
        record = self._records.get(path)
        if record is None:
            if len(self._records) >= self.MOST_PATHS:
                del self._records[next(iter(self._records))]
            record = self._records[path] = _Record(now)
        record.add(1, 0, now)

    def add_time(self, path: str, seconds: float, now: float) -> None:
        """Count the time for which a request has kept the event loop busy; do nothing for a path without long waits."""
        record = self._find(path)
        if record is not None:
            record.add(0, seconds, now)

    def expected_waits(self, path: str, now: float) -> float:
        """Return the weight of the path's recent long waits; 0 if a new request to the path is not expected to wait for
        long, or would load the event loop."""
        record = self._find(path)
        return record.waits if record is not None and record.is_current(now) and not record.computes else 0.0

    def _find(self, path: str) -> _Record | None:
        return self._records.get(pattern(path)) if self._records else None
