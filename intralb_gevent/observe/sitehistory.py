"""The history of a site: each process records its history in the site's table, and any process adds the histories up.

A record contains the values of one second, or of `STEP` seconds, and the time that it is for. The time is that of the
clock `monotonic`, which all processes of a machine share. Therefore, the records of several processes belong together
if their times are equal, a process that was blocked leaves a gap in its own records only, and the records of processes
that have ended remain in the history.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from operator import add
from typing import Final, TypeVar
from zlib import crc32

from ..supervise.table import RECORDS_BYTES, OwnRow
from .history import LONG_ROWS, SECONDS, STEP, Series, merged

__all__ = ["SiteHistory"]

_HEAD: Final = 3
"""Number of integers before the values of a record: its time, the key of the series, and the id of the process."""

_ITEM_BYTES: Final = 4
_HIGHEST: Final = frozenset({"busy", "stretch"})
"""Series for which the site has the highest value of its processes; for all other series, it has the sum."""

Record = Sequence[float]
_Number = TypeVar("_Number", int, float)


class _Ring:
    """The place of the records of one resolution in a row: the record for the time n is at index n modulo `rows`."""

    def __init__(self, first: int, rows: int, seconds: int, items: int) -> None:
        self.first, self.rows, self.seconds, self.items = first, rows, seconds, items

    def __repr__(self) -> str:
        return f"<_Ring of {self.rows} records of {self.seconds} s>"

    def offset(self, number: int) -> int:
        """Return the offset in bytes of the record for a time, in units of `seconds`."""
        return (self.first + number % self.rows) * self.items * _ITEM_BYTES


class SiteHistory:
    """Writes the history of this process into its row, and reads the history of the site."""

    def __init__(self, row: OwnRow, series: Sequence[Series]) -> None:
        self._row, self._table = row, row.table
        self.series = tuple(series)
        items = _HEAD + len(self.series)
        self._short, self._long = _Ring(0, SECONDS, 1, items), _Ring(SECONDS, LONG_ROWS, STEP, items)
        if (SECONDS + LONG_ROWS) * items * _ITEM_BYTES > RECORDS_BYTES:
            raise ValueError(f"{len(self.series)} series do not fit into a row of the table")
        # Another version of the package may have other series; its records are not read.
        self._key = crc32("\n".join(str(each) for each in self.series).encode())
        self._second = -1
        self._values: Sequence[float] = ()

    def __repr__(self) -> str:
        return f"<SiteHistory of {len(self.series)} series in {self._row!r}>"

    # Writing the history of this process.

    def add(self, now: float, values: Sequence[float]) -> None:
        """Record the values of the last second; `now` is in `time.monotonic()` seconds."""
        second = int(now)
        earlier = self._found(self._row.index, second, None)
        if earlier is not None:
            # The timer has run twice in this second, or the row's previous owner has ended in this second.
            values = [
                old + new if series.merge == "sum" else new
                for series, old, new in zip(self.series, earlier, values, strict=True)
            ]
        elif 0 <= self._second < second:
            self._fill(self._second + 1, min(second, self._second + SECONDS))
        self._second, self._values = second, values
        self._record(second, values)

    def _fill(self, first: int, end: int) -> None:
        """Record the seconds in which the event loop was blocked: nothing has ended, and the levels are unchanged."""
        pairs = zip(self.series, self._values, strict=True)
        same = [0.0 if series.merge == "sum" else value for series, value in pairs]
        for second in range(first, end):
            self._record(second, same)

    def _record(self, second: int, values: Sequence[float]) -> None:
        self._write(self._short, second, values)
        step = second // STEP
        found = [self._found(self._row.index, each, None) for each in range(step * STEP, second + 1)]
        columns = zip(*filter(None, found), strict=True)
        self._write(self._long, step, [merged(*each) for each in zip(self.series, columns, strict=True)])

    def _write(self, ring: _Ring, number: int, values: Sequence[float]) -> None:
        head = array("I", (number & 0xFFFFFFFF, self._key, os.getpid()))
        self._row.write_record(ring.offset(number), head.tobytes() + array("f", values).tobytes())

    # Reading the history of the site, or of one of its processes.

    def rows(self, first: int, end: int, process: int | None) -> list[Record]:
        """Return the values of the seconds from `first` to before `end`; seconds without records have zeros."""
        return [self._at(second, process) for second in range(max(first, end - SECONDS), end)]

    def _at(self, second: int, process: int | None) -> Record:
        values: Record = [0.0] * len(self.series)
        for index in range(self._table.used):
            found = self._found(index, second, process)
            if found is not None:
                values = [_operator(series)(*pair) for series, *pair in zip(self.series, values, found, strict=True)]
        return values

    def _found(self, index: int, second: int, process: int | None) -> Record | None:
        """Return the values that a row has for a second; None if the row has none."""
        size = self._short.items * _ITEM_BYTES
        record = self._table.records(index, self._short.offset(second), size)
        head = array("I", record[: _HEAD * _ITEM_BYTES])
        if len(record) < size or not self._is_for(head, second, process):
            return None
        return array("f", record[_HEAD * _ITEM_BYTES :])

    def _is_for(self, head: Sequence[int], number: int, process: int | None) -> bool:
        return head[0] == number & 0xFFFFFFFF and head[1] == self._key and process in (None, head[2])

    def columns(self, end: int, process: int | None, *, long: bool) -> Iterator[list[list[float]] | None]:
        """Add up the histories that end before the second `end`; yield None between the steps of this work, and at
        last the values of all series, the oldest value first."""
        ring = self._long if long else self._short
        last = end // ring.seconds - 1
        totals = [[0.0] * ring.rows for _ in self.series]
        oldest = ring.rows
        for index in range(self._table.used):
            raw = self._table.records(index, ring.offset(0), ring.rows * ring.items * _ITEM_BYTES)
            raw += bytes(ring.rows * ring.items * _ITEM_BYTES - len(raw))
            yield None
            known = self._known(ring, raw, last, process)
            if True not in known:
                continue
            oldest = min(oldest, known.index(True))
            values = array("f", raw)
            for number, series in enumerate(self.series):
                column = _in_order(values[_HEAD + number :: ring.items], last)
                if any(column):
                    valid = map(_value_if, column, known)
                    totals[number] = list(map(_operator(series), totals[number], valid))
                yield None
        yield [column[oldest:] for column in totals]

    def _known(self, ring: _Ring, raw: bytes, last: int, process: int | None) -> list[bool]:
        """Return, for each time up to `last`, whether the row has a record for this time."""
        heads = array("I", raw)
        times, keys, pids = (_in_order(heads[place :: ring.items], last) for place in range(_HEAD))
        wanted = range(last - ring.rows + 1, last + 1)
        heads_of_times = zip(times, keys, pids, strict=True)
        return [self._is_for(head, number, process) for number, head in zip(wanted, heads_of_times, strict=True)]


def _in_order(column: array[_Number], last: int) -> array[_Number]:
    """Return the values of a ring in the order of their times, if the newest value is for the time `last`."""
    start = (last + 1) % len(column)
    return column[start:] + column[:start]


def _value_if(value: float, known: bool) -> float:
    return value if known else 0.0


def _operator(series: Series) -> Callable[[float, float], float]:
    return max if series.name in _HIGHEST else add
