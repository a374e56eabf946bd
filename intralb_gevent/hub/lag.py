"""Measures how late the event loop runs a timer, and reports the minimum delay in a period."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, Final

__all__ = ["LagProbe"]


class LagProbe:
    """A periodic timer in the event loop, which runs only while there are jobs."""

    SECONDS: Final = 0.005

    def __init__(self, loop: Any, sample: Callable[[], object]) -> None:
        self._timer = loop.timer(self.SECONDS, self.SECONDS, ref=False)
        self._sample = sample
        """Function that is called each time the timer expires."""
        self._due = 0.0
        self._least: float | None = None

    def __repr__(self) -> str:
        return f"<LagProbe {'on' if self._timer.active else 'off'}, least lag {self._least}>"

    def run(self, wanted: bool) -> None:
        """Start the timer if `wanted` is True, that is, if there are jobs; otherwise, stop the timer."""
        if wanted and not self._timer.active:
            self._due = monotonic() + self.SECONDS
            # Update the loop's cached time, which is the time of the last iteration; otherwise, the timer would expire
            # too early.
            self._timer.start(self._beat, update=True)
        elif not wanted:
            self.stop()

    def stop(self) -> None:
        """Stop the timer."""
        self._timer.stop()
        self._least = None

    def take(self) -> float | None:
        """Return the minimum delay since the last call, in seconds; None if the timer has not expired since then."""
        least, self._least = self._least, None
        return least

    def _beat(self) -> None:
        now = monotonic()
        late = max(0.0, now - self._due)
        # Start the next period now, because a timer that is late by several periods expires only once.
        self._due = now + self.SECONDS
        if self._least is None or late < self._least:
            self._least = late
        self._sample()
