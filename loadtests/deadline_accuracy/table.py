"""Writes results as Markdown tables that can be read as they are.

Decides columns and how figures are written. It must not know how things are measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..side_by_side.markdown import table as as_table
from .kinds import HEADINGS, KINDS, Kind
from .results import Entry, Results

__all__ = ["as_markdown", "duration"]

_HEADER: Final = ("kind", "deadline", "measured", "p50 ms", "p99 ms", "worst ms", "earliest ms", "goal ms", "reached")


def as_markdown(results: Results) -> str:
    """Return all results: what they are about, then a table for each heading."""
    about = "\n".join(f"- {name}: {value}" for name, value in results.about.items())
    return "\n\n".join([about, *_tables(results)]) + "\n"


def duration(seconds: float) -> str:
    """Write a deadline."""
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


def _tables(results: Results) -> Iterator[str]:
    for heading in HEADINGS:
        kinds = [kind for kind in KINDS.values() if kind.heading == heading]
        rows = [row for kind in kinds for row in _rows(kind, results)]
        if rows:
            yield f"### {heading}"
            yield as_table(_HEADER, rows)
        faults = [line for kind in kinds for line in _faults(kind, results)]
        if faults:
            yield "\n".join(faults)


def _rows(kind: Kind, results: Results) -> Iterator[list[str]]:
    for deadline, entry in results.entries.get(kind.name, {}).items():
        goal = [_milliseconds(kind.latest, 0), "yes" if entry.reaches(kind.latest) else "no"]
        yield [kind.title, duration(deadline), str(len(entry.late)), *_figures(entry), *goal]


def _figures(entry: Entry) -> list[str]:
    if not entry.late:
        return [""] * 4
    figures = (entry.percentile(0.5), entry.percentile(0.99), max(entry.late), min(entry.late))
    return [_milliseconds(figure) for figure in figures]


def _milliseconds(seconds: float, digits: int = 1) -> str:
    return f"{seconds * 1000:.{digits}f}"


def _faults(kind: Kind, results: Results) -> Iterator[str]:
    """Say what went wrong beside lateness."""
    for deadline, entry in results.entries.get(kind.name, {}).items():
        if entry.early:
            yield f"- {kind.title}, {duration(deadline)}: {entry.early} ended before the deadline"
        if entry.otherwise:
            seen = ", ".join(f"{count} x {end}" for end, count in entry.otherwise.items())
            yield f"- {kind.title}, {duration(deadline)}: seen instead of {kind.end}: {seen}"
    if kind.name in results.failures:
        yield f"- {kind.title} could not be measured to the end: {results.failures[kind.name]}"
