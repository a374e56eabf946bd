"""Draws charts as SVG: bars that stand on each other, lines, and stairs, over the seconds of a run.

Decides scales, ticks and shapes; colours are classes that the page's stylesheet fills. It must not know what the
figures mean.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["Chart", "Kind", "Series", "as_count", "as_duration", "draw"]

_WIDTH: Final = 560
_HEIGHT: Final = 210
_LEFT: Final = 58
_RIGHT: Final = 10
_TOP: Final = 8
_BOTTOM: Final = 26
_TICKS: Final = 4
"""How many steps a scale has at most."""
_GAP: Final = 0.8
"""What is left free beside each bar."""

Kind = Literal["bars", "lines", "stairs"]
"""Bars stand on each other; lines join the middles of their columns; stairs go level through each."""


def as_count(value: float) -> str:
    """Write a number of things, or of things per second."""
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.1f}"


def as_duration(milliseconds: float) -> str:
    """Write a duration in the unit that suits it."""
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.3g} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 or milliseconds == 0 else f"{milliseconds:.2g} ms"


@dataclass(frozen=True)
class Series:
    """One row of values, a value for each column of its chart; None leaves a gap."""

    name: str
    style: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Chart:
    """What is to be drawn. A column is a stretch of time, in seconds from the beginning of the run."""

    title: str
    kind: Kind
    columns: Sequence[tuple[float, float]]
    series: Sequence[Series]
    until: float
    """Where the time ends."""
    write: Callable[[float], str] = as_count
    """How a value is written."""
    reach: float = 0.0
    """What the scale reaches at least, so that two charts can have the same."""

    @property
    def highest(self) -> float:
        """The largest value that the scale is for, or 1 if there is none above nothing."""
        rows = [[value or 0.0 for value in each.values] for each in self.series]
        heights = [sum(column) if self.kind == "bars" else max(column) for column in zip(*rows, strict=True)]
        return max([self.reach, *heights]) or 1.0


@dataclass(frozen=True)
class _Scale:
    """Where times and values lie on the drawing."""

    until: float
    top: float

    def x(self, second: float) -> float:
        return round(_LEFT + min(second / self.until, 1.0) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        return round(_HEIGHT - _BOTTOM - value / self.top * (_HEIGHT - _TOP - _BOTTOM), 1)


def draw(chart: Chart) -> str:
    """Return the chart as an SVG element."""
    step = _step(chart.highest)
    scale = _Scale(chart.until, math.ceil(chart.highest / step - 1e-9) * step)
    shapes = {"bars": _bars, "lines": _lines, "stairs": _stairs}[chart.kind]
    parts = [*_value_axis(chart, scale, step), *_time_axis(scale), *shapes(chart, scale), *_readings(chart, scale)]
    name = html.escape(chart.title)
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">{"".join(parts)}</svg>'


def _step(highest: float) -> float:
    """Return the distance of ticks: 1, 2 or 5 times a power of ten."""
    rough = highest / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough - 1e-9)


def _value_axis(chart: Chart, scale: _Scale, step: float) -> Iterator[str]:
    for number in range(round(scale.top / step) + 1):
        y = scale.y(number * step)
        yield f'<path class="grid" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{html.escape(chart.write(number * step))}</text>'


def _time_axis(scale: _Scale) -> Iterator[str]:
    step = max(1.0, _step(scale.until * _TICKS / 8))
    for number in range(int(scale.until / step) + 1):
        x = scale.x(number * step)
        yield f'<text x="{x}" y="{_HEIGHT - 8}" text-anchor="middle">{number * step:g}{"" if number else " s"}</text>'


def _bars(chart: Chart, scale: _Scale) -> Iterator[str]:
    heights = [0.0] * len(chart.columns)
    for each in chart.series:
        path = []
        for index, ((begin, end), value) in enumerate(zip(chart.columns, each.values, strict=True)):
            if value:
                low, heights[index] = heights[index], heights[index] + value
                path.append(_bar(scale, begin, end, low, heights[index]))
        yield f'<path class="fill {each.style}" d="{"".join(path)}"/>'


def _bar(scale: _Scale, begin: float, end: float, low: float, high: float) -> str:
    left, right = scale.x(begin) + _GAP, max(scale.x(end) - _GAP, scale.x(begin) + _GAP + 0.5)
    return f"M{left:.1f} {scale.y(low)}V{scale.y(high)}H{right:.1f}V{scale.y(low)}Z"


def _lines(chart: Chart, scale: _Scale) -> Iterator[str]:
    for each in chart.series:
        path, pen = [], "M"
        for (begin, end), value in zip(chart.columns, each.values, strict=True):
            if value is None:
                pen = "M"
                continue
            # A single point between two gaps would be a line without length: so it is a dot.
            path.append(f"{pen}{scale.x((begin + end) / 2)} {scale.y(value)}{'h0' if pen == 'M' else ''}")
            pen = "L"
        yield f'<path class="line {each.style}" d="{"".join(path)}"/>'


def _stairs(chart: Chart, scale: _Scale) -> Iterator[str]:
    for each in chart.series:
        path = [
            f"{'L' if index else 'M'}{scale.x(begin)} {scale.y(value)}H{scale.x(end)}"
            for index, ((begin, end), value) in enumerate(zip(chart.columns, each.values, strict=True))
            if value is not None
        ]
        yield f'<path class="line {each.style}" d="{"".join(path)}"/>'


def _readings(chart: Chart, scale: _Scale) -> Iterator[str]:
    """Lay an invisible column over each, which lights up under the pointer and tells the values."""
    for index, (begin, end) in enumerate(chart.columns):
        values = [(each.name, each.values[index]) for each in chart.series]
        told = [f"{name}: {chart.write(value)}" for name, value in values if value is not None]
        text = html.escape("\n".join([f"second {begin:.0f} to {end:.0f}", *told]))
        width = round(max(scale.x(end) - scale.x(begin), 0.5), 1)
        area = f'x="{scale.x(begin)}" y="{_TOP}" width="{width}" height="{_HEIGHT - _TOP - _BOTTOM}"'
        yield f'<rect class="reading" {area}><title>{text}</title></rect>'
