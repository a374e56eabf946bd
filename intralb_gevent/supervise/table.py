"""The table of a site's processes in shared memory: each process writes one row, and reads all rows.

The supervisor, or gunicorn's arbiter, creates the table, and each process inherits the table's descriptor. A process
claims the first row whose lock is free. The kernel releases the lock when the process ends, even if the process is
killed.

A row has three parts. The words contain the current state of the process; a word is written as a whole, so readers need
no lock. The texts can be large: the data and the rejected requests, which remain after the process has ended, and the
process's part of the status page. The records are for the history of the status page, and remain, too; a reader must
check each record.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Final, NamedTuple

from ..errors import OptionError

__all__ = [
    *("DATA", "DRAINING", "LANES", "PART", "READY", "RECORDS_BYTES", "REJECTED", "STARTING"),
    *("OwnRow", "Row", "Table", "lane_key"),
]

_LAYOUT: Final = b"intralb-table-02"
"""Name and version of the layout; a table with another layout is not read."""

ROWS: Final = 2048
"""Maximum number of processes that have a row; during a reload, the old and the new processes have rows together."""

STARTING, READY, DRAINING = 1, 2, 3
_STATES: Final = ("", "starting", "ready", "draining")

_WORD: Final = 8
_ROW_WORDS: Final = 64
_HOT_BYTES: Final = (ROWS + 1) * _ROW_WORDS * _WORD
"""Size of the header and of the words of all rows."""

_USED: Final = 2
"""Index of the header word that contains the number of rows ever claimed; the layout's name occupies the first two
words."""

_PID, _GENERATION, _STATE, _CHANGES, _CONNECTIONS, _QUEUED, _RUNNING, _FREE, _LANE_COUNT = range(9)
_PROBLEMS: Final = 9
_BUSY_SINCE, _BEAT, _SATURATION, _REQUESTS, _ERRORS, _VIEWED = range(10, 16)
_FIRST_LANE: Final = 16

LANES: Final = _ROW_WORDS - _FIRST_LANE
"""Maximum number of lanes whose free slots a row contains; requests of further lanes are never moved."""

_FREE_BITS: Final = 24
_MOST_FREE: Final = (1 << _FREE_BITS) - 1

_AREA: Final = 256 * 1024
"""Size in bytes of one copy of a row's text. A process writes two copies alternately, so one copy is always complete,
even if the process is killed. Memory is used only for the part that is written."""

DATA, PART, REJECTED = 0, 1, 2
"""Numbers of a row's texts: the data, the process's part of the status page, and its rejected requests."""

_TEXTS: Final = 3

RECORDS_BYTES: Final = 1024 * 1024
"""Size in bytes of the part of a row that contains records."""

_ROW_BYTES: Final = 2 * _TEXTS * _AREA + RECORDS_BYTES

_HEADER: Final = struct.Struct("<QII")
"""Format of the number, length and checksum of a copy; from the checksum, a reader detects a torn copy."""

_TRIES: Final = 20


def lane_key(name: str) -> int:
    """Return the number that identifies a lane in the table; the general lane has the name ""."""
    return zlib.crc32(name.encode("utf-8", "surrogatepass"))


class Row(NamedTuple):
    """The values in one process's row of the table, read at one moment. Times are in `time.monotonic()` seconds."""

    number: int
    """Number of the row in the table."""
    pid: int
    generation: int
    """Generation of the process; 0 if it is unknown."""
    state: int
    """STARTING, READY or DRAINING."""
    changes: int
    """Number of times that the process has written or confirmed its load."""
    connections: int
    queued: int
    running: int
    free: int
    """Number of free slots of all lanes together."""
    lanes: Mapping[int, int]
    """Number of free slots by `lane_key`."""
    problems: bool
    """True if the process's data contain a verdict on a problem."""
    busy_since: float
    """Start of the event loop's current busy period; 0 while the loop waits for events."""
    beat: float
    """Time of the last periodic update, which a process writes while its event loop runs."""
    saturation: float
    requests_per_second: float
    errors_per_second: float

    def as_dict(self, now: float) -> dict[str, Any]:
        """Return the row as the admin pages show it."""
        return {
            "row": self.number,
            "pid": self.pid,
            "generation": self.generation,
            "state": _STATES[self.state],
            "connections": self.connections,
            "queued": self.queued,
            "running": self.running,
            "free_slots": self.free,
            "saturation": round(self.saturation, 4),
            "busy_seconds": round(now - self.busy_since, 3) if self.busy_since else 0.0,
            "silent_seconds": round(now - self.beat, 3),
        }


class Table:
    """The shared memory of one site."""

    def __init__(self, descriptor: int | None = None) -> None:
        """Create a table, or open an inherited table; raises OptionError if the inherited table has the layout of
        another version."""
        self.descriptor = os.memfd_create("intralb-table") if descriptor is None else descriptor
        if descriptor is None:
            os.ftruncate(self.descriptor, _HOT_BYTES)
            os.pwrite(self.descriptor, _LAYOUT, 0)
        found = os.pread(self.descriptor, len(_LAYOUT), 0)
        if found != _LAYOUT:
            raise OptionError(
                f"the table of processes: the layout {found!r} is not allowed; it must be {_LAYOUT!r}, "
                "the layout of this version. Restart the supervisor, for example with SIGUSR2"
            )
        memory = memoryview(mmap.mmap(self.descriptor, _HOT_BYTES))
        self.words: memoryview[int] = memory.cast("q")
        self.times: memoryview[float] = memory.cast("d")

    def __repr__(self) -> str:
        return f"<Table {self.descriptor}: {[row.pid for row in self.rows()]}>"

    def claim(self) -> OwnRow | None:
        """Claim and return the first row that no other process owns; return None if all rows are owned.

        Keep the table's descriptor open until the process ends, because closing the descriptor would unlock the row.
        """
        for index in range(ROWS):
            try:
                fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, index)
            except OSError:
                continue
            return OwnRow(self, index)
        return None

    @property
    def used(self) -> int:
        """Number of rows that were ever claimed."""
        return min(int(self.words[_USED]), ROWS)

    def rows(self) -> list[Row]:
        """Return the rows of all processes that have not left; a killed process's row remains until it is claimed."""
        rows = (self._row(index) for index in range(self.used))
        return [row for row in rows if row.pid]

    def _row(self, index: int) -> Row:
        start = (index + 1) * _ROW_WORDS
        words = self.words[start : start + _ROW_WORDS]
        times = self.times[start + _BUSY_SINCE : start + _ERRORS + 1]
        lanes = words[_FIRST_LANE : _FIRST_LANE + min(words[_LANE_COUNT], LANES)]
        pid, generation, state, changes, connections, queued, running, free = words[: _FREE + 1]
        slots = {word >> _FREE_BITS: word & _MOST_FREE for word in lanes}
        problems = bool(words[_PROBLEMS])
        return Row(index, pid, generation, state, changes, connections, queued, running, free, slots, problems, *times)

    def data(self, index: int) -> dict[str, Any]:
        """Return the data of a row, even if its process has ended; {} if no data have been written."""
        return dict(json.loads(self.newest(index)[1]))

    def viewed(self, index: int) -> float:
        """Return the last time at which the process of a row had a viewer of the status page; 0 if it never had one."""
        return self.times[(index + 1) * _ROW_WORDS + _VIEWED]

    def records(self, index: int, offset: int, length: int) -> bytes:
        """Return a part of a row's records; parts that were never written are missing or zero."""
        return os.pread(self.descriptor, length, _records_at(index) + offset)

    def newest(self, index: int, text: int = DATA) -> tuple[int, bytes]:
        """Return the number and the content of the newest complete copy of one of a row's texts."""
        for _ in range(_TRIES):
            copies = [copy for which in (0, 1) if (copy := self._copy(_copy_at(index, text, which))) is not None]
            if copies:
                return max(copies)
        return 0, b"{}"

    def _copy(self, at: int) -> tuple[int, bytes] | None:
        """Return the number and the content of the copy of a text at this offset; None if the copy is torn.

        The number 0 means that the copy has never been written.
        """
        header = os.pread(self.descriptor, _HEADER.size, at)
        if not header.strip(b"\0"):
            return 0, b"{}"
        if len(header) < _HEADER.size:
            return None
        number, length, checksum = _HEADER.unpack(header)
        text = os.pread(self.descriptor, min(length, _AREA), at + _HEADER.size)
        return (number, text) if _checksum(number, text) == checksum else None


class OwnRow:
    """The row that this process writes."""

    def __init__(self, table: Table, index: int) -> None:
        self.table, self.index = table, index
        start = (index + 1) * _ROW_WORDS
        self._words = table.words[start : start + _ROW_WORDS]
        self._times = table.times[start : start + _ROW_WORDS]
        self._numbers = [table.newest(index, text)[0] for text in range(_TEXTS)]
        self.earlier = table.data(index)
        """The data that the previous owner of this row has written."""
        if self._numbers[PART]:
            # Otherwise, the status page would show the previous owner until this process writes its own part.
            self.write_text(PART, b"{}")
        self._words[:] = memoryview(bytes(_ROW_WORDS * _WORD)).cast("q")
        self.beat(monotonic())
        self._words[_STATE] = STARTING
        self._words[_PID] = os.getpid()

    def __repr__(self) -> str:
        return f"<OwnRow {self.index} of {self._words[_PID]}>"

    @property
    def state(self) -> int:
        """State of this process: STARTING, READY or DRAINING."""
        return int(self._words[_STATE])

    @state.setter
    def state(self, state: int) -> None:
        self._words[_STATE] = state

    def belongs_to(self, generation: int) -> None:
        """Write the generation of this process."""
        self._words[_GENERATION] = generation

    # The event loop calls the following methods in each iteration.

    def busy(self, now: float) -> None:
        """Record that the event loop is busy from now on."""
        self._times[_BUSY_SINCE] = now

    def idle(self) -> None:
        """Record that the event loop is waiting for events."""
        self._times[_BUSY_SINCE] = 0.0

    def write_load(self, queued: int, running: int, free: Sequence[tuple[int, int]]) -> None:
        """Write the load; `free` contains the `lane_key` and the number of free slots of each lane."""
        words = self._words
        words[_QUEUED], words[_RUNNING] = queued, running
        total = 0
        for place, (key, slots) in enumerate(free[:LANES], _FIRST_LANE):
            words[place] = key << _FREE_BITS | min(slots, _MOST_FREE)
            total += slots
        words[_LANE_COUNT] = min(len(free), LANES)
        words[_FREE] = total
        words[_CHANGES] += 1

    def confirm_load(self) -> None:
        """Record that requests have arrived since the load was last written, but that the load has not changed."""
        self._words[_CHANGES] += 1

    # `SiteRow` calls the following methods periodically.

    def write_connections(self, connections: int) -> None:
        """Write the number of open connections of this process."""
        self._words[_CONNECTIONS] = connections

    def beat(self, now: float) -> None:
        """Record that the event loop is running."""
        self._times[_BEAT] = now
        # Write the number periodically: processes that claim rows at the same moment may overwrite each other's number.
        self.table.words[_USED] = max(self.table.used, self.index + 1)

    def write_rates(self, saturation: float, requests_per_second: float, errors_per_second: float) -> None:
        """Write the saturation of this process, and its rates of requests and errors."""
        self._times[_SATURATION] = saturation
        self._times[_REQUESTS], self._times[_ERRORS] = requests_per_second, errors_per_second

    def write_problems(self, problems: bool) -> None:
        """Write whether the data contain a verdict on a problem, so that other processes read only data that contain
        such a verdict."""
        self._words[_PROBLEMS] = int(problems)

    def write_data(self, data: Mapping[str, Any]) -> bool:
        """Replace the data; if they are too large, leave the earlier data unchanged, and return False."""
        return self.write_text(DATA, json.dumps(data, separators=(",", ":")).encode())

    def write_text(self, text: int, content: bytes) -> bool:
        """Replace a text; if its content is too large, leave the earlier content unchanged, and return False."""
        if len(content) > _AREA - _HEADER.size:
            return False
        self._numbers[text] += 1
        number = self._numbers[text]
        header = _HEADER.pack(number, len(content), _checksum(number, content))
        with contextlib.suppress(OSError):
            os.pwrite(self.table.descriptor, header + content, _copy_at(self.index, text, number & 1))
        return True

    def write_record(self, offset: int, record: bytes) -> None:
        """Write one of the records."""
        with contextlib.suppress(OSError):
            os.pwrite(self.table.descriptor, record, _records_at(self.index) + offset)

    def write_viewed(self, now: float) -> None:
        """Record that this process has a viewer of the status page."""
        self._times[_VIEWED] = now

    def leave(self) -> None:
        """Mark the row as unused; its data remain."""
        self._words[_PID] = 0


def _copy_at(index: int, text: int, which: int) -> int:
    return _HOT_BYTES + index * _ROW_BYTES + (2 * text + which) * _AREA


def _records_at(index: int) -> int:
    return _HOT_BYTES + index * _ROW_BYTES + 2 * _TEXTS * _AREA


def _checksum(number: int, text: bytes) -> int:
    return zlib.crc32(text, number & 0xFFFFFFFF)
