"""Draws results as one SVG: for each case a panel, for each server a bar.

Decides shapes and colours, for light and dark pages. It must not know how things are measured.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from .cases import CASES, IDLE
from .results import Results
from .servers import LIMIT, OURS, SERVERS
from .table import kilobytes, rate

__all__ = ["draw"]

_WIDTH: Final = 920
_MARGIN: Final = 28
_GAP: Final = 44
"""Between the two panels that stand side by side."""
_PANEL: Final = (_WIDTH - 2 * _MARGIN - _GAP) / 2
_NAMES: Final = 168
_VALUES: Final = 62
_BARS: Final = _PANEL - _NAMES - _VALUES
_ROW: Final = 22
_BAR: Final = 14
_TITLE: Final = 34
_BELOW: Final = 26
"""Between a panel and the one under it."""
_HEAD: Final = 76
_STYLE: Final = """
text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; fill: #3f4a50; }
.head { font-size: 19px; font-weight: 650; fill: #1d2327; }
.title { font-size: 14px; font-weight: 650; fill: #1d2327; }
.soft { fill: #5b666d; }
.ours-text { font-weight: 650; fill: #1d4ed8; }
.paper { fill: #ffffff; stroke: #e3e1da; }
.bar { fill: #b9c3ca; }
.ours { fill: #2563eb; }
.limit { fill: none; stroke: #94a0a6; stroke-dasharray: 3 2; }
@media (prefers-color-scheme: dark) {
  text { fill: #c3cbd0; }
  .head, .title { fill: #eef1f3; }
  .soft { fill: #9aa6ac; }
  .ours-text { fill: #8ab4ff; }
  .paper { fill: #1b2023; stroke: #2d3438; }
  .bar { fill: #56636b; }
  .ours { fill: #7aa7ff; }
  .limit { stroke: #77838a; }
}
"""


@dataclass(frozen=True)
class _Panel:
    """One case, at its place."""

    case: str
    bars: Sequence[_Bar]
    x: float
    y: float

    @property
    def highest(self) -> float:
        return max((bar.value or 0.0 for bar in self.bars), default=0.0) or 1.0


@dataclass(frozen=True)
class _Bar:
    """One server in a case."""

    server: str
    value: float | None
    clean: bool
    """Whether nothing went wrong."""


def draw(results: Results) -> str:
    """Return the chart as an SVG document."""
    panels, height = _placed(results)
    parts = [*_head(panels, height), *(part for panel in panels for part in _panel(panel))]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="intralb_gevent beside other servers">\n<style>{_STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _placed(results: Results) -> tuple[list[_Panel], int]:
    """Return the panels, two in a row, and how high all of it is."""
    cases = [case for case in CASES if case in results.entries]
    panels, y = [], _HEAD
    for first in range(0, len(cases), 2):
        pair = [(case, _bars(results, case)) for case in cases[first : first + 2]]
        panels += [_Panel(case, bars, _MARGIN + side * (_PANEL + _GAP), y) for side, (case, bars) in enumerate(pair)]
        y += _TITLE + _ROW * max(len(bars) for _, bars in pair) + _BELOW
    return panels, y


def _bars(results: Results, case: str) -> list[_Bar]:
    entries = results.entries[case]
    return [_Bar(name, entries[name].value, entries[name].clean) for name in SERVERS if name in entries]


def _head(panels: Sequence[_Panel], height: int) -> Iterator[str]:
    bars = [bar for panel in panels for bar in panel.bars]
    about = "One process on one core; medians."
    if any(bar.server == LIMIT for bar in bars):
        about += " Dashed: the limit, gevent's loop with a fixed answer."
    if not all(bar.clean for bar in bars):
        about += " * with errors: see the tables."
    yield f'<rect class="paper" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="10"/>'
    yield _text("intralb_gevent beside other servers", _MARGIN, 36, "head")
    yield _text(about, _MARGIN, 57, "soft")


def _panel(panel: _Panel) -> Iterator[str]:
    unit = "KB for each, less is better" if panel.case == IDLE else "requests/s"
    title = f'{html.escape(CASES[panel.case].title)} <tspan class="soft" font-weight="400">{unit}</tspan>'
    yield f'<text class="title" x="{panel.x}" y="{panel.y + 18}">{title}</text>'
    for number, bar in enumerate(panel.bars):
        yield from _bar(panel, bar, panel.y + _TITLE + number * _ROW)


def _bar(panel: _Panel, bar: _Bar, y: float) -> Iterator[str]:
    words = "ours-text" if bar.server == OURS else "soft"
    shape = {OURS: "ours", LIMIT: "limit"}.get(bar.server, "bar")
    left, width = panel.x + _NAMES, (bar.value or 0.0) / panel.highest * _BARS
    yield _text(SERVERS[bar.server].title.partition(":")[0], left - 10, y + 11, words, "end")
    if bar.value is not None:
        yield f'<rect class="{shape}" x="{left:.1f}" y="{y}" width="{max(width, 1):.1f}" height="{_BAR}" rx="3"/>'
    yield _text(_written(panel.case, bar), left + width + 7, y + 11, words)


def _written(case: str, bar: _Bar) -> str:
    if bar.value is None:
        return "not measured *"
    return (kilobytes if case == IDLE else rate)(bar.value) + ("" if bar.clean else " *")


def _text(text: str, x: float, y: float, style: str, anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
