"""The recent history of a process: the last ten minutes in steps of one second, and six hours in steps of ten seconds.

The memory use is fixed: each series is an array of single-precision floats, allocated at the start.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

__all__ = ["LONG_ROWS", "SECONDS", "STEP", "History", "Series", "merged"]

SECONDS: Final = 600
"""Number of rows of the short history, which has one row per second."""

STEP: Final = 10
"""Seconds that one row of the long history covers."""

LONG_ROWS: Final = 2160


class Series(NamedTuple):
    """One series: its name, and the operation that merges `STEP` of its values into one value of the long history."""

    name: str
    merge: Literal["sum", "mean", "most"]


class _Ring:
    """A fixed number of rows of numbers; a new row overwrites the oldest one."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns = [array("f", bytes(4 * rows)) for _ in range(columns)]
        self.rows = rows
        self.count = 0
        """Number of rows added so far."""

    def __repr__(self) -> str:
        return f"<_Ring {min(self.count, self.rows)} of {self.rows} rows, {len(self.columns)} columns>"

    def add(self, row: Sequence[float]) -> None:
        """Add a row, with one number for each column; if all rows are in use, overwrite the oldest."""
        index = self.count % self.rows
        for column, value in zip(self.columns, row, strict=True):
            column[index] = value
        self.count += 1

    def column(self, index: int) -> array[float]:
        """Return the values of a column, the oldest value first."""
        values = self.columns[index]
        if self.count < self.rows:
            return values[: self.count]
        start = self.count % self.rows
        return values[start:] + values[:start]

    def last(self, rows: int) -> list[list[float]]:
        """Return, for each column, its values in the newest rows, the oldest value first."""
        places = [number % self.rows for number in range(max(0, self.count - rows), self.count)]
        return [[column[place] for place in places] for column in self.columns]


class History:
    """All series of a process, each in the short and in the long history."""

    def __init__(self, series: Sequence[Series]) -> None:
        self.series = tuple(series)
        self._short = _Ring(len(self.series), SECONDS)
        self._long = _Ring(len(self.series), LONG_ROWS)

    def __repr__(self) -> str:
        return f"<History of {len(self.series)} series, {self._short!r}>"

    @property
    def count(self) -> int:
        """Number of seconds recorded so far."""
        return self._short.count

    def add(self, row: Sequence[float]) -> None:
        """Add the values of one second, in the order of `series`."""
        self._short.add(row)
        if not self._short.count % STEP:
            self._long.add([merged(*each) for each in zip(self.series, self._short.last(STEP), strict=True)])

    def column(self, index: int, *, long: bool) -> array[float]:
        """Return the values of one series, the oldest value first; `long` selects the long history."""
        return (self._long if long else self._short).column(index)


def merged(series: Series, values: Sequence[float]) -> float:
    """Return one value of the long history for the values of consecutive seconds."""
    if series.merge == "most":
        return max(values)
    return sum(values) / (len(values) if series.merge == "mean" else 1)
