"""What the status page shows of a whole site: the history, and a part of the page for each process.

While any process of the site has a viewer, each process publishes its part of the page in the site's table once a
second. The process that has the viewer passes the parts on without reading them, and the page puts them together.
Therefore, the page is the same whichever process serves it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any, Final

from ..supervise.table import PART, REJECTED, OwnRow
from .frames import MOST_KEPT, json_bytes, numbers, shown_refusal
from .history import SECONDS, Series
from .refusals import Refusals
from .sitehistory import SiteHistory

__all__ = ["Charts", "SiteView"]

_VIEWED_SECONDS: Final = 3.0
"""Seconds for which the processes publish their parts after a viewer was last there."""

_MOST_ROWS: Final = 10
"""Maximum number of seconds whose values one event contains."""

_RARELY: Final = 10
"""Without viewers, the rejected requests are published only once in this many seconds."""


class SiteView:
    """Publishes what this process contributes to the status page, and reads what other processes have published."""

    def __init__(self, row: OwnRow, series: Sequence[Series]) -> None:
        self._row, self._table = row, row.table
        self.history = SiteHistory(row, series)
        self._published = 0
        self._seconds = 0

    def __repr__(self) -> str:
        return f"<SiteView of {self._row!r}>"

    # Publishing.

    def tick(self, values: Sequence[float], viewers: int) -> None:
        """Record the values of the last second, and whether this process has viewers; called once a second."""
        now = monotonic()
        self._seconds += 1
        self.history.add(now, values)
        if viewers:
            self.expect_parts()

    def expect_parts(self) -> None:
        """Record that this process has a viewer, so that all processes publish their parts within a second."""
        self._row.write_viewed(monotonic())

    @property
    def watched(self) -> bool:
        """True if any process of the site has a viewer."""
        now = monotonic()
        return any(now - self._table.viewed(index) < _VIEWED_SECONDS for index in range(self._table.used))

    def has_rejected(self, refusals: Refusals) -> bool:
        """Return whether there are rejected requests that should be published now."""
        return refusals.count != self._published and (self._seconds % _RARELY == 0 or self.watched)

    def publish(self, part: bytes) -> None:
        """Publish the part of this process; other processes miss a part that does not fit into the table."""
        self._row.write_text(PART, part)

    def publish_rejected(self, refusals: Refusals) -> None:
        """Publish the last rejected requests, if there are any new ones."""
        if refusals.count == self._published:
            return
        self._published = refusals.count
        shown = [shown_refusal(each) for each in refusals.since(0)]
        for most in (MOST_KEPT, MOST_KEPT // 4):
            if self._row.write_text(REJECTED, json_bytes(shown[-most:])):
                return

    # Reading.

    def parts(self) -> Iterator[bytes]:
        """Yield the newest parts of the other processes, as JSON; a blocked process has an old part."""
        for row in self._table.rows():
            if row.number != self._row.index and os.path.exists(f"/proc/{row.pid}"):
                part = self._table.newest(row.number, PART)[1]
                if part != b"{}":
                    yield part

    def rejected(self) -> list[dict[str, Any]]:
        """Return the last rejected requests of all processes, the oldest first."""
        found: list[dict[str, Any]] = []
        for index in range(self._table.used):
            content = json.loads(self._table.newest(index, REJECTED)[1])
            found += content or ()
        found.sort(key=_time_of)
        return found


class Charts:
    """Sends the history to one viewer; `process` is the id of the selected process, or None for all processes."""

    def __init__(self, view: SiteView, process: int | None) -> None:
        self._history, self.process = view.history, process
        self._next = int(monotonic())
        """First second that has not been sent; the present second is not complete."""

    def __repr__(self) -> str:
        return f"<Charts of {self._history!r}>"

    def columns(self, *, long: bool) -> Iterator[list[list[float]] | None]:
        """Add up the history until the viewer has connected, as `SiteHistory.columns` does."""
        return self._history.columns(self._next, self.process, long=long)

    def event(self) -> bytes:
        """Return an event with the values of the seconds that have passed since the last event."""
        end = int(monotonic())
        # A slow viewer gets some of its missing seconds with each event.
        first = max(self._next, end - SECONDS)
        self._next = min(first + _MOST_ROWS, end)
        rows = [numbers(row) for row in self._history.rows(first, self._next, self.process)]
        return b"event: rows\ndata: " + json_bytes(rows) + b"\n\n"


def _time_of(refusal: dict[str, Any]) -> float:
    return float(refusal["at"])
