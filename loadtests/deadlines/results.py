"""The results (how late requests were aborted, by kind and deadline), the goals, and the tables."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from ..common.report import about_lines, percentile, table
from .measure import HEADINGS, KINDS, Kind, Seen

_RESOLUTION: Final = time.get_clock_info("monotonic").resolution


@dataclass
class Entry:
    """The results of one kind at one deadline."""

    late: list[float] = field(default_factory=list)
    """Lateness of each request's end after the deadline, in seconds."""
    otherwise: dict[str, int] = field(default_factory=dict)
    """Number of requests with an unexpected result, by result."""

    def add(self, kind: Kind, deadline: float, seen: Seen) -> None:
        """Add the result of one request."""
        if seen.end == kind.end:
            self.late.append(seen.seconds - deadline)
        else:
            self.otherwise[seen.end] = self.otherwise.get(seen.end, 0) + 1

    def percentile(self, percent: float) -> float:
        """Return a percentile of the lateness, in seconds; 0 without requests."""
        return percentile(sorted(self.late), percent) or 0.0

    @property
    def early(self) -> int:
        """The number of requests that ended before the deadline, by more than the resolution of the clock."""
        return sum(late < -_RESOLUTION for late in self.late)

    def reaches(self, latest: float) -> bool:
        """Return whether all requests ended as expected, none early, and 99 % of them at most `latest` seconds late."""
        return bool(self.late) and not self.otherwise and not self.early and self.percentile(99) <= latest


@dataclass
class Results:
    """All results, and the conditions of the measurement."""

    about: dict[str, str] = field(default_factory=dict)
    entries: dict[str, dict[float, Entry]] = field(default_factory=dict)
    """Results by kind name, then by deadline in seconds."""
    failures: dict[str, str] = field(default_factory=dict)
    """Errors that stopped a measurement, by kind name."""

    def entry(self, kind: str, deadline: float) -> Entry:
        """Return the entry of a kind at a deadline; create it if it is missing."""
        return self.entries.setdefault(kind, {}).setdefault(deadline, Entry())

    @property
    def measured(self) -> int:
        """The number of requests that ended as expected."""
        return sum(len(entry.late) for entries in self.entries.values() for entry in entries.values())

    @property
    def missed(self) -> bool:
        """True if a goal was missed, or a measurement failed."""
        reached = (
            entry.reaches(KINDS[name].latest) for name, entries in self.entries.items() for entry in entries.values()
        )
        return bool(self.failures) or not all(reached)


_HEADER: Final = ("kind", "deadline", "measured", "p50 ms", "p99 ms", "worst ms", "earliest ms", "goal ms", "reached")


def as_markdown(results: Results) -> str:
    """Format all results: the conditions of the measurement, then a table for each heading."""
    return "\n\n".join([about_lines(results.about), *_tables(results)]) + "\n"


def duration(seconds: float) -> str:
    """Format a deadline."""
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


def _tables(results: Results) -> Iterator[str]:
    for heading in HEADINGS:
        kinds = [kind for kind in KINDS.values() if kind.heading == heading]
        rows = [
            _row(kind, deadline, entry)
            for kind in kinds
            for deadline, entry in results.entries.get(kind.name, {}).items()
        ]
        if rows:
            yield f"### {heading}"
            yield table(_HEADER, rows)
        faults = [line for kind in kinds for line in _faults(kind, results)]
        if faults:
            yield "\n".join(faults)


def _row(kind: Kind, deadline: float, entry: Entry) -> list[str]:
    late = entry.late
    figures = (entry.percentile(50), entry.percentile(99), max(late), min(late)) if late else ()
    cells = [f"{figure * 1000:.1f}" for figure in figures] or [""] * 4
    goal = [f"{kind.latest * 1000:.0f}", "yes" if entry.reaches(kind.latest) else "no"]
    return [kind.title, duration(deadline), str(len(late)), *cells, *goal]


def _faults(kind: Kind, results: Results) -> Iterator[str]:
    """Yield a sentence for each failure other than lateness."""
    for deadline, entry in results.entries.get(kind.name, {}).items():
        if entry.early:
            yield f"- {kind.title}, {duration(deadline)}: {entry.early} ended before the deadline"
        if entry.otherwise:
            seen = ", ".join(f"{count} x {end}" for end, count in entry.otherwise.items())
            yield f"- {kind.title}, {duration(deadline)}: seen instead of {kind.end}: {seen}"
    if kind.name in results.failures:
        yield f"- {kind.title} could not be measured to the end: {results.failures[kind.name]}"
