"""Sums up log records of one kind that come again and again, so that neither an outage nor a client fills the log.

The first records of a kind are written. The others are counted, and every 10 seconds a line says how many they were,
and what the last one said.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from time import monotonic
from typing import Any, Final

import gevent

from .hublog import HubLog

__all__ = ["CLIENTS_MOST", "Repeats"]

REPORT_SECONDS: Final = 10.0
"""How often the records that were left out are reported."""

CLIENTS_MOST: Final = 10
"""Records of one kind that clients may cause in `REPORT_SECONDS`."""

_MOST_KINDS: Final = 200
_OTHERS: Final = "others"
"""Stands for all kinds beyond that."""


class _Kind:
    """What is known of one kind of records."""

    __slots__ = ("admitted", "begun", "last", "left_out", "level")

    def __init__(self) -> None:
        self.begun = monotonic()
        self.admitted = self.left_out = self.level = 0
        self.last: Callable[[], str] = str


class Repeats:
    """The kinds of records of one log; `seconds` is how long the records that are written count."""

    def __init__(self, log: HubLog, seconds: float = REPORT_SECONDS) -> None:
        self._log = log
        self._seconds = seconds
        self._kinds: dict[Hashable, _Kind] = {}
        self._timer: Any = None
        self._due = 0.0

    def __repr__(self) -> str:
        return f"<Repeats of {len(self._kinds)} kinds>"

    def record(self, key: Hashable, level: int, text: Callable[[], str]) -> None:
        """Log a record that a client has caused, or count it. Never waits."""
        if self.admits(key, CLIENTS_MOST, level, text):
            self._log.record(level, text)

    def admits(self, key: Hashable, most: int, level: int, text: Callable[[], str]) -> bool:
        """Return whether a record is to be written: one of the first `most` of its kind. Otherwise it is counted."""
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
        """Report now what was left out."""
        for kind in self._kinds.values():
            if kind.left_out:
                self._log.record(kind.level, _told(kind.left_out, kind.last))
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
        # A timer whose loop has ended meanwhile never comes.
        if now < self._due + 1.0:
            return
        self._due = now + REPORT_SECONDS
        self._timer = gevent.get_hub().loop.timer(REPORT_SECONDS, ref=False)
        self._timer.start(self._report)

    def _report(self) -> None:
        self._due = 0.0
        self._timer.close()
        self.flush()

    def forget(self) -> None:
        """Leave the counts to the parent, in a process that a handler has forked."""
        self._kinds, self._due = {}, 0.0


def _told(count: int, last: Callable[[], str]) -> Callable[[], str]:
    return lambda: f"{count} more like this in the last {REPORT_SECONDS:g} s: {last()}"
