"""Draws a workload as one SVG: goodput and the p99 of what was admitted, against the load; a line for each server.

Decides what is drawn, and the scales. It must not know how things are measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ..side_by_side.servers import OURS
from .contenders import CONTENDERS
from .drawing import CEILING, MARGIN, WIDTH, document, path, shape, steps, text
from .results import Results
from .seen import SLO_SECONDS
from .workloads import Workload

__all__ = ["draw"]

_HEIGHT: Final = 430
_TOP: Final = 128
_BOTTOM: Final = _HEIGHT - 52
_AXIS: Final = 44
"""What the numbers beside a scale need."""
_PANEL: Final = (WIDTH - 2 * MARGIN - 2 * _AXIS - 24) / 2
_LEGEND_ROW: Final = 18
_LEGEND_COLUMNS: Final = 4


@dataclass(frozen=True)
class _Line:
    """One server, or the ceiling: load and value of each point."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Panel:
    """One figure against the load."""

    title: str
    lines: Sequence[_Line]
    x: float
    loads: Sequence[float]
    ticks: Sequence[float]
    """Of the vertical scale; the first and the last are its ends."""
    logarithmic: bool = False

    def across(self, load: float) -> float:
        """Return where a load lies; as far from its half as from its double."""
        low, high = math.log(self.loads[0]), math.log(self.loads[-1])
        share = (math.log(load) - low) / (high - low) if high > low else 0.5
        return round(self.x + _AXIS + share * _PANEL, 1)

    def down(self, value: float) -> float:
        """Return where a value lies, on the scale's end if it is beyond it."""
        bend: Callable[[float], float] = math.log if self.logarithmic else float
        low, high = bend(self.ticks[0]), bend(self.ticks[-1])
        within = min(max(value, self.ticks[0]), self.ticks[-1])
        return round(_BOTTOM - (bend(within) - low) / (high - low) * (_BOTTOM - _TOP), 1)


def draw(results: Results, workload: Workload) -> str:
    """Return the chart of a workload as an SVG document."""
    panels = _panels(results, workload)
    parts = [
        *_head(workload, results.capacity(workload.name)),
        *_legend(panels),
        *(part for panel in panels for part in _panel(panel)),
    ]
    return document(parts, _HEIGHT, f"{workload.title}: goodput and p99 past capacity")


def _panels(results: Results, workload: Workload) -> list[_Panel]:
    entries = {name: entry for name, entry in results.entries[workload.name].items() if entry.points}
    loads = sorted({point.load for entry in entries.values() for point in entry.points}) or [1.0]
    goodput = [_Line(name, [(point.load, point.goodput) for point in entry.points]) for name, entry in entries.items()]
    slow = [
        _Line(name, [(point.load, point.seen.admitted_p99) for point in entry.points if point.seen.admitted_p99])
        for name, entry in entries.items()
    ]
    ceiling = _ceiling(results, workload)
    right = MARGIN + _AXIS + _PANEL + 24
    highest = max((value for line in [*goodput, *ceiling] for _, value in line.points), default=1.0)
    return [
        _Panel("Goodput, answers within 500 ms per second", [*ceiling, *goodput], MARGIN, loads, steps(highest)),
        _Panel("p99 of what was not refused, ms", slow, right, loads, (1, 10, 100, 1000, 10_000), True),
    ]


def _ceiling(results: Results, workload: Workload) -> list[_Line]:
    entries = results.entries[workload.name].values()
    # Every server was sent the same.
    offered = {point.load: point.offered for entry in entries for point in entry.points}
    points = [(load, results.ceiling(workload.name, offered[load])) for load in sorted(offered)]
    known = [(load, value) for load, value in points if value is not None]
    return [_Line(CEILING, known)] if known else []


def _head(workload: Workload, capacity: float) -> Iterator[str]:
    yield text(f"Past capacity: {workload.title}", MARGIN, 36, "head")
    about = f"One process on one core; capacity {capacity:.0f} requests/s. Poisson arrivals, open loop."
    yield text(about, MARGIN, 56, "soft")


def _legend(panels: Sequence[_Panel]) -> Iterator[str]:
    names = [line.name for line in panels[0].lines]
    wide = (WIDTH - 2 * MARGIN) / _LEGEND_COLUMNS
    for number, name in enumerate(sorted(names, key=[*CONTENDERS, CEILING].index)):
        x, y = MARGIN + number % _LEGEND_COLUMNS * wide, 76 + number // _LEGEND_COLUMNS * _LEGEND_ROW
        yield f'<path class="{shape(name)}" d="M{x:.1f} {y}h22"/>'
        yield text("ceiling" if name == CEILING else CONTENDERS[name].title, x + 29, y + 4, "soft")


def _panel(panel: _Panel) -> Iterator[str]:
    yield text(panel.title, panel.x, _TOP - 12, "title")
    yield from _scales(panel)
    if panel.logarithmic:
        y = panel.down(SLO_SECONDS * 1000)
        yield f'<path class="line dashed {CEILING}" d="M{panel.x + _AXIS} {y}h{_PANEL}"/>'
        yield text("useful below this", panel.x + _AXIS + 4, y - 5, "soft")
    # Ours last, so that it lies above the others.
    for line in sorted(panel.lines, key=lambda line: line.name == OURS):
        yield from _line(panel, line)


def _scales(panel: _Panel) -> Iterator[str]:
    for tick in panel.ticks:
        y = panel.down(tick)
        yield f'<path class="grid" d="M{panel.x + _AXIS} {y}h{_PANEL}"/>'
        yield text(f"{tick:,.10g}", panel.x + _AXIS - 8, y + 4, "soft", "end")
    for load in panel.loads:
        yield text(f"{load:g}", panel.across(load), _BOTTOM + 18, "soft", "middle")
    yield text("times the capacity", panel.x + _AXIS + _PANEL / 2, _BOTTOM + 36, "soft", "middle")


def _line(panel: _Panel, line: _Line) -> Iterator[str]:
    if not line.points:
        return
    yield path(shape(line.name), [(panel.across(load), panel.down(value)) for load, value in line.points])
