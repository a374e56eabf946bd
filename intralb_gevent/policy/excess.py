"""Measures overload as the number of rejected jobs per job that is run."""

from __future__ import annotations

from typing import Final

__all__ = ["RejectionRatio"]


class RejectionRatio:
    """The ratio of rejected jobs to run jobs over the last few seconds."""

    KEPT: Final = 0.98
    """Factor by which the earlier counts are multiplied when a window is added. With windows of 100 ms, the last 5 s
    make up two thirds of the sum, which averages out short peaks and lulls. The ratio still follows a rise of the load
    quickly, because the new rejections soon outnumber all earlier counts."""

    __slots__ = ("_run", "_shed")

    def __init__(self) -> None:
        self._run = self._shed = 0.0

    def __repr__(self) -> str:
        return f"<Excess of {self.ratio:.3f}>"

    @property
    def ratio(self) -> float:
        """Number of rejected jobs per run job; for example, 9 at a load of ten times the capacity."""
        return self._shed / max(1.0, self._run)

    def add(self, run: int, turned_away: int) -> None:
        """Add a window that has ended: the number of jobs that were run, and the number of rejected jobs."""
        self._run = self._run * self.KEPT + run
        self._shed = self._shed * self.KEPT + turned_away
