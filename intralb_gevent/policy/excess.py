"""How much more arrives than can be done.

Decides nothing but this figure. It must not know jobs.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Excess"]


class Excess:
    """What was turned away for each job that was run, in the last seconds."""

    KEPT: Final = 0.98
    """How much of what was counted counts after another window. With windows of 100 ms the last 5 s make up two thirds:
    moments with few or many arrivals are shorter than that, and a change of the load is noticed at once, for what is
    turned away then soon outnumbers all that was before."""

    __slots__ = ("_run", "_turned_away")

    def __init__(self) -> None:
        self._run = self._turned_away = 0.0

    def __repr__(self) -> str:
        return f"<Excess of {self.ratio:.3f}>"

    @property
    def ratio(self) -> float:
        """Jobs turned away over jobs run: 0 up to the capacity, 1 at twice of it, 9 at ten times."""
        return self._turned_away / max(1.0, self._run)

    def add(self, run: int, turned_away: int) -> None:
        """Take note of a window that is over."""
        self._run = self._run * self.KEPT + run
        self._turned_away = self._turned_away * self.KEPT + turned_away
