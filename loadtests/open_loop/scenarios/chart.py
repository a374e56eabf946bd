"""Draws a scenario as one SVG: what was sent, what was useful, and the p99, over time; two rows for each server.

Decides scales and shapes. It must not know how a scenario is played or judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..contenders import CONTENDERS
from ..drawing import MARGIN, WIDTH, document, path, steps, text
from .catalogue import Scenario
from .course import Course
from .timeline import TENTH

__all__ = ["draw"]

_AXIS: Final = 52
"""What the numbers beside a scale need."""
_TOP: Final = 124
_GAP: Final = 58
_PANEL: Final = 150
_LEGEND: Final = 290
"""How wide what is said of a stream's lines is."""
_SPAN: Final = WIDTH - 2 * MARGIN - _AXIS
_P99_TICKS: Final = (1.0, 10.0, 100.0, 1000.0, 10_000.0)
_HUES: Final = ("intralb", "gunicorn", "granian", "uwsgi")
"""Whose colours the streams have, in turn."""


@dataclass(frozen=True)
class _Panel:
    """One figure of one server over time."""

    title: str
    y: float
    """Where its upper end is."""
    seconds: float
    ticks: Sequence[float]
    """Of the vertical scale; the first and the last are its ends."""
    lines: Sequence[tuple[str, Sequence[float | None]]]
    """Classes, and a value for each tenth of a second."""
    logarithmic: bool = False

    def across(self, second: float) -> float:
        """Return where an instant lies."""
        return round(MARGIN + _AXIS + second / self.seconds * _SPAN, 1)

    def down(self, value: float) -> float:
        """Return where a value lies, on the scale's end if it is beyond it."""
        low, high = self.ticks[0], self.ticks[-1]
        within = min(max(value, low), high)
        share = math.log(within / low) / math.log(high / low) if self.logarithmic else (within - low) / (high - low)
        return round(self.y + _PANEL * (1 - share), 1)


def draw(scenario: Scenario, courses: Mapping[str, Course]) -> str:
    """Return the chart of a scenario as an SVG document."""
    panels = [panel for number, name in enumerate(courses) for panel in _panels(name, courses[name], number)]
    parts = [*_head(scenario, courses)]
    for panel, course in zip(panels, [course for course in courses.values() for _ in range(2)], strict=True):
        parts += _panel(panel, course)
    height = round(_TOP + 2 * len(courses) * (_PANEL + _GAP))
    return document(parts, height, f"{scenario.title}: goodput and p99 over time")


def _panels(server: str, course: Course, number: int) -> Iterator[_Panel]:
    seconds = max(span.end for span in course.phases.values())
    y = _TOP + 2 * number * (_PANEL + _GAP)
    rates, p99s = _rates(course), _p99s(course)
    highest = max((value for _, values in rates for value in values if value is not None), default=1.0)
    title = CONTENDERS[server].title
    yield _Panel(f"{title}: sent and useful, per second", y, seconds, steps(max(highest, 1.0)), rates)
    yield _Panel(f"{title}: p99 of what was not refused, ms", y + _PANEL + _GAP, seconds, _P99_TICKS, p99s, True)


def _rates(course: Course) -> list[tuple[str, Sequence[float | None]]]:
    lines: list[tuple[str, Sequence[float | None]]] = []
    for hue, line in zip(_HUES, course.timelines.values(), strict=False):
        lines.append((f"line dashed {hue}", [count / TENTH for count in line.sent]))
        lines.append((f"line {hue}", [count / TENTH for count in line.useful]))
    return lines


def _p99s(course: Course) -> list[tuple[str, Sequence[float | None]]]:
    return [(f"line {hue}", line.p99) for hue, line in zip(_HUES, course.timelines.values(), strict=False)]


def _head(scenario: Scenario, courses: Mapping[str, Course]) -> Iterator[str]:
    yield text(scenario.title, MARGIN, 36, "head")
    yield text(f"{scenario.about.replace('`', '')}.", MARGIN, 56, "soft")
    names = [*next(iter(courses.values())).timelines] if courses else []
    for number, (hue, name) in enumerate(zip(_HUES, names, strict=False)):
        x = MARGIN + number * _LEGEND
        yield f'<path class="line {hue}" d="M{x} 76h22"/>'
        yield text(f"{name}: useful; its p99", x + 29, 80, "soft")
        yield f'<path class="line dashed {hue}" d="M{x + 190} 76h22"/>'
        yield text("sent", x + 219, 80, "soft")


def _panel(panel: _Panel, course: Course) -> Iterator[str]:
    yield text(panel.title, MARGIN, panel.y - 12, "title")
    yield from _scales(panel, course)
    for classes, values in panel.lines:
        yield from _line(panel, classes, values)


def _scales(panel: _Panel, course: Course) -> Iterator[str]:
    for tick in panel.ticks:
        y = panel.down(tick)
        yield f'<path class="grid" d="M{MARGIN + _AXIS} {y}h{_SPAN}"/>'
        yield text(f"{tick:,.10g}", MARGIN + _AXIS - 8, y + 4, "soft", "end")
    for name, (begin, _) in course.phases.items():
        x = panel.across(begin)
        yield f'<path class="grid" d="M{x} {panel.y}v{_PANEL + 6}"/>'
        if name != next(iter(course.phases)):
            yield text(f"{name}, from {begin:.1f} s", x + 3, panel.y + _PANEL + 18, "soft")


def _line(panel: _Panel, classes: str, values: Sequence[float | None]) -> Iterator[str]:
    """Draw the values, with a gap where there is none."""
    piece: list[tuple[float, float]] = []
    for number, value in enumerate([*values, None]):
        if value is not None:
            piece.append((panel.across((number + 0.5) * TENTH), panel.down(value)))
        elif piece:
            yield path(classes, piece)
            piece = []
