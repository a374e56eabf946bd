"""Limits repeated log records of one kind, so that neither an outage nor a client can fill the log.

The first records of a kind are written, and further records are only counted. Every 10 seconds, one line for each kind
reports the number of counted records and the text of the last record.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from time import monotonic
from typing import Any, Final

import gevent

from .log import HubLog

__all__ = ["CLIENTS_MOST", "Repeats"]

REPORT_SECONDS: Final = 10.0
"""Seconds between two reports of the suppressed records."""

CLIENTS_MOST: Final = 10
"""Maximum number of records of one kind that clients can cause in `REPORT_SECONDS`; further records are only
counted."""

_MOST_KINDS: Final = 200
_OTHERS: Final = "others"
"""Key that all further kinds share once there are `_MOST_KINDS` kinds."""


class _Kind:
    """The counts of one kind of records."""

    __slots__ = ("admitted", "begun", "last", "left_out", "level")

    def __init__(self) -> None:
        self.begun = monotonic()
        self.admitted = self.left_out = self.level = 0
        self.last: Callable[[], str] = str


class Repeats:
    """Suppresses repeated records in one log: in each period of `seconds`, only a limited number of records of each
    kind is written."""

    def __init__(self, log: HubLog, seconds: float = REPORT_SECONDS, report_seconds: float = REPORT_SECONDS) -> None:
        self._log = log
        self._seconds = seconds
        self._report_seconds = report_seconds
        self._kinds: dict[Hashable, _Kind] = {}
        self._timer: Any = None
        self._due = 0.0

    def __repr__(self) -> str:
        return f"<Repeats of {len(self._kinds)} kinds>"

    def record(self, key: Hashable, level: int, text: Callable[[], str]) -> None:
        """Log a record that a client has caused, or only count it; never waits."""
        if self.admits(key, CLIENTS_MOST, level, text):
            self._log.record(level, text)

    def admits(self, key: Hashable, most: int, level: int, text: Callable[[], str]) -> bool:
        """Return whether a record is one of the first `most` of its kind, and must be written; if not, count it."""
        kind = self._kind(key)
        now = monotonic()
        if now - kind.begun >= self._seconds:
            kind.begun, kind.admitted = now, 0
        if kind.admitted < most:
            kind.admitted += 1
            return True
        kind.left_out += 1
        kind.level, kind.last = level, text
        self._report_later(now)
        return False

    def flush(self) -> None:
        """Report the suppressed records now."""
        for kind in self._kinds.values():
            if kind.left_out:
                self._log.record(kind.level, self._summary(kind.left_out, kind.last))
                kind.left_out = 0

    def _kind(self, key: Hashable) -> _Kind:
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= _MOST_KINDS:
                self._prune()
            if len(self._kinds) >= _MOST_KINDS:
                key = _OTHERS
            kind = self._kinds.setdefault(key, _Kind())
        return kind

    def _prune(self) -> None:
        old = monotonic() - self._seconds
        self._kinds = {key: kind for key, kind in self._kinds.items() if kind.left_out or kind.begun > old}

    def _report_later(self, now: float) -> None:
        # If the timer is overdue, start a new timer: the old timer may belong to an event loop that has ended, and
        # would never expire.
        if now < self._due + 1.0:
            return
        self._due = now + self._report_seconds
        self._timer = gevent.get_hub().loop.timer(self._report_seconds, ref=False)
        self._timer.start(self._report)

    def _report(self) -> None:
        self._due = 0.0
        self._timer.close()
        self.flush()

    def forget(self) -> None:
        """Reset the counts in a process that a handler has forked; the parent reports them."""
        self._kinds, self._due = {}, 0.0

    def _summary(self, count: int, last: Callable[[], str]) -> Callable[[], str]:
        return lambda: f"{count} more like this in the last {self._report_seconds:g} s: {last()}"
