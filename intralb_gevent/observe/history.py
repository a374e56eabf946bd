"""The recent past of a process in fixed memory: ten minutes by the second, and six hours by ten seconds.

Each series is an array of single-precision floats, which is allocated at the start and never grows.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

__all__ = ["History", "Series"]

SECONDS: Final = 600
"""Number of rows by the second."""

STEP: Final = 10
"""Seconds of one row of the long history."""

LONG_ROWS: Final = 2160


class Series(NamedTuple):
    """One series: its name, and how its values in `STEP` seconds are combined into one value of the long history."""

    name: str
    merge: Literal["sum", "mean", "most"]


class _Ring:
    """Rows of numbers, of which the oldest is overwritten."""

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
        """Return the values of a column, the oldest first."""
        values = self.columns[index]
        if self.count < self.rows:
            return values[: self.count]
        start = self.count % self.rows
        return values[start:] + values[:start]

    def last(self, rows: int) -> list[list[float]]:
        """Return the values of each column in the newest rows, the oldest first."""
        places = [number % self.rows for number in range(max(0, self.count - rows), self.count)]
        return [[column[place] for place in places] for column in self.columns]


class History:
    """The series of a process in both resolutions."""

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
            merged = map(_merged, self.series, self._short.last(STEP))
            self._long.add(list(merged))

    def column(self, index: int, *, long: bool) -> array[float]:
        """Return the values of one series, the oldest first."""
        return (self._long if long else self._short).column(index)


def _merged(series: Series, values: Sequence[float]) -> float:
    if series.merge == "most":
        return max(values)
    return sum(values) / (len(values) if series.merge == "mean" else 1)
