"""Sums up rejected requests for the log: one record every 10 seconds while requests are rejected.

The numbers are read from the lanes' statistics, so the summary does not make a rejection more expensive.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from ..process.logline import LogText

if TYPE_CHECKING:
    from ..hub.log import HubLog
    from .lane import Lane

__all__ = ["RefusalSummary"]

SECONDS: Final = 10.0
"""Number of seconds that one record covers."""


class RefusalSummary:
    """Reports how many requests were rejected, and for which reasons."""

    def __init__(self, lanes: list[Lane], log: HubLog) -> None:
        self._lanes = lanes
        self._log = log
        self._reported = self._counts()
        self._total = sum(self._reported.values())
        self._since: float | None = None
        """Time of the first unreported rejection, in `time.monotonic()` seconds; None if all are reported."""

    def __repr__(self) -> str:
        return f"<RefusalSummary, {self._total} reported>"

    def look(self, now: float) -> None:
        """Report the rejections if the first unreported rejection is `SECONDS` seconds old; called at every tick."""
        if self._since is not None and now - self._since >= SECONDS:
            self.report(now)
        elif self._since is None and self._rejected() != self._total:
            self._since = now

    def report(self, now: float) -> None:
        """Report all rejections that have not been reported yet."""
        counts = self._counts()
        new = {reason: count - self._reported.get(reason, 0) for reason, count in counts.items()}
        new = {reason: count for reason, count in sorted(new.items(), key=lambda item: -item[1]) if count > 0}
        seconds = 0.0 if self._since is None else now - self._since
        self._reported, self._total, self._since = counts, sum(counts.values()), None
        if new:
            self._log.record(logging.WARNING, partial(_text, new, seconds))

    def _rejected(self) -> int:
        return sum(lane.stats.shed for lane in self._lanes)

    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for lane in self._lanes:
            for reason, count in lane.stats.shed_reasons.items():
                counts[reason] = counts.get(reason, 0) + count
        return counts


def _text(counts: dict[str, int], seconds: float) -> LogText:
    total = sum(counts.values())
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
    # Report at least 1 s, because the record that is written at a shutdown may cover only a fraction of a second.
    text = f"refused {total:,} {'request' if total == 1 else 'requests'} in {max(1, round(seconds))} s: {reasons}"
    return LogText(text, {"rejected": total, "seconds": round(seconds, 3), "reasons": counts})
