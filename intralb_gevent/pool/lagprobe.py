"""How late the hub comes to a timer, at best, in a stretch of time.

Decides how often the timer is due. It must not know what follows from a late hub.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, Final

__all__ = ["LagProbe"]


class LagProbe:
    """A timer of 5 ms in the hub, that runs only while there is something to be late for."""

    SECONDS: Final = 0.005

    def __init__(self, loop: Any, sample: Callable[[], object]) -> None:
        self._timer = loop.timer(self.SECONDS, self.SECONDS, ref=False)
        self._sample = sample
        """Called at each beat, for what else is to be looked at as often."""
        self._due = 0.0
        self._least: float | None = None

    def __repr__(self) -> str:
        return f"<LagProbe {'on' if self._timer.active else 'off'}, least lag {self._least}>"

    def run(self, wanted: bool) -> None:
        """Go on, or pause, as there are jobs or none."""
        if wanted and not self._timer.active:
            self._due = monotonic() + self.SECONDS
            # The loop's own time may be that of the last round.
            self._timer.start(self._beat, update=True)
        elif not wanted:
            self.stop()

    def stop(self) -> None:
        """Beat no more."""
        self._timer.stop()
        self._least = None

    def take(self) -> float | None:
        """Return the least lateness since the last call, in seconds; None if there was no beat."""
        least, self._least = self._least, None
        return least

    def _beat(self) -> None:
        now = monotonic()
        late = max(0.0, now - self._due)
        # A timer that was late for several beats is due once, and then from now on.
        self._due = now + self.SECONDS
        if self._least is None or late < self._least:
            self._least = late
        self._sample()
