"""Moves a request that finds no free slot, together with its connection, to a process with a free slot.

So a request waits, or is rejected, only if all processes are full. The table in shared memory shows which processes
have free slots (`supervise/table.py`), and `moving.py` passes the connection. Only servers that share a listener have a
`Rescue` object.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..policy.rescue import SILENT_SECONDS, Candidate, candidates_in_order
from ..supervise.table import READY, OwnRow, Row, lane_key

if TYPE_CHECKING:
    from .connection import Connection
    from .moving import Moving

__all__ = ["Rescue"]

LOOK_SECONDS: Final = 0.001
"""Minimum seconds between two reads of the table by `possible`, while this process is full."""

PROMISE_SECONDS: Final = 0.01
"""Seconds within which a process has recorded a moved request in its row, or has already answered the request."""


class _Promise(NamedTuple):
    """The requests that were sent to a process since that process last wrote its load to the table."""

    changes: int
    """The value of `Row.changes` in the process's row when the requests were sent."""
    requests: int
    at: float
    """Time at which the last of the requests was sent, in `time.monotonic()` seconds."""

    def and_one(self, now: float) -> _Promise:
        """Return a copy with one more request, which was sent at `now`."""
        return _Promise(self.changes, self.requests + 1, now)


class Rescue:
    """Moves requests of one server that find no free slot to other processes."""

    def __init__(self, moving: Moving, row: OwnRow) -> None:
        self._moving = moving
        self._table = row.table
        self._own = row.index
        self._intake = moving.shared.intake
        self._looked = 0.0
        self._found = False
        self._promised: dict[int, _Promise] = {}
        """Requests that were sent to each process, but that the process's row does not include yet; by process id."""

    def __repr__(self) -> str:
        return f"<Rescue by {self._moving!r}>"

    def prepare(self) -> None:
        """Connect to the other processes in advance, so that a request can move immediately; called periodically."""
        try:
            for each in self._others():
                if each.state == READY and monotonic() - each.beat < SILENT_SECONDS:
                    self._moving.links.connect(each.pid)
        except Exception:
            self._moving.failed()

    def possible(self) -> bool:
        """Return whether another process may have a free slot. Never waits or raises."""
        now = monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._found = bool(self._candidates(now, lambda row: row.free))
        return self._found

    def move(self, connection: Connection, environ: dict[str, Any], data: bytes) -> bool:
        """Move a connection with its only request; return False if it must be served here. Never waits or raises.

        `data` contains all bytes of the request, and `environ` was parsed from these bytes.
        """
        try:
            return self._move(connection, environ, data)
        except Exception:
            self._moving.failed()
            return connection.closed

    def _move(self, connection: Connection, environ: dict[str, Any], data: bytes) -> bool:
        lane = self._intake.mounts.find(environ).lane
        if lane.pool.free or self._intake.condition != "serving":
            return False
        key = lane_key(lane.name)
        for each in self._candidates(monotonic(), lambda row: row.lanes.get(key, 0)):
            if self._moving.send_request(each.pid, connection, data):
                self._promised[each.pid] = self._promised[each.pid].and_one(monotonic())
                return True
        return False

    def _others(self) -> list[Row]:
        return [row for row in self._table.rows() if row.number != self._own]

    def _candidates(self, now: float, free: Callable[[Row], int]) -> list[Candidate]:
        """Return the processes that can receive a request, best first; `free` returns a row's number of free slots."""
        rows = self._others()
        self._promised = {row.pid: self._promise(row, now) for row in rows}
        return candidates_in_order(
            Candidate(
                row.pid,
                row.state == READY,
                free(row),
                self._promised[row.pid].requests,
                row.connections,
                now - row.busy_since if row.busy_since else 0.0,
                now - row.beat,
            )
            for row in rows
        )

    def _promise(self, row: Row, now: float) -> _Promise:
        promise = self._promised.get(row.pid)
        if promise is None or promise.changes != row.changes or now - promise.at > PROMISE_SECONDS:
            return _Promise(row.changes, 0, 0.0)
        return promise
