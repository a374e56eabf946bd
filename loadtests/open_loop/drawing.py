"""What all charts of the benchmark have in common: the page, its colours for light and dark, texts and scales.

Decides how a chart looks. It must not know what is drawn.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import Final

from ..side_by_side.servers import OURS

__all__ = ["CEILING", "MARGIN", "WIDTH", "document", "path", "shape", "steps", "text"]

WIDTH: Final = 960
MARGIN: Final = 28
CEILING: Final = "ceiling"
_COLOURS: Final = {
    OURS: ("#2563eb", "#7aa7ff"),
    "gunicorn": ("#c2410c", "#fb923c"),
    "pywsgi": ("#a16207", "#facc15"),
    "pywsgi-nodelay": ("#4d7c0f", "#a3e635"),
    "waitress": ("#be185d", "#f472b6"),
    "granian": ("#0f766e", "#2dd4bf"),
    "uwsgi": ("#6d28d9", "#c4b5fd"),
    f"{OURS}-fixed": ("#c2410c", "#fb923c"),
    CEILING: ("#7b868c", "#8b979d"),
}
"""Of each line, on light and on dark pages."""
_STYLE: Final = """
text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; fill: #3f4a50; }
.head { font-size: 19px; font-weight: 650; fill: #1d2327; }
.title { font-size: 14px; font-weight: 650; fill: #1d2327; }
.soft { fill: #5b666d; }
.paper { fill: #ffffff; stroke: #e3e1da; }
.grid { stroke: #ecebe6; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; opacity: 0.85; }
.ours { stroke-width: 3.4; opacity: 1; }
.dashed { stroke-dasharray: 5 4; }
"""
_DARK_STYLE: Final = """
text { fill: #c3cbd0; }
.head, .title { fill: #eef1f3; }
.soft { fill: #9aa6ac; }
.paper { fill: #1b2023; stroke: #2d3438; }
.grid { stroke: #2d3438; }
"""


def document(parts: Iterable[str], height: int, name: str) -> str:
    """Return the whole chart as an SVG document of this height, named for those who cannot see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{html.escape(name)}">\n<style>{_styles()}</style>\n'
        f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _styles() -> str:
    light, dark = (
        "\n".join(f".{name} {{ stroke: {colours[shade]}; }}" for name, colours in _COLOURS.items()) for shade in (0, 1)
    )
    return f"{_STYLE}{light}\n@media (prefers-color-scheme: dark) {{{_DARK_STYLE}{dark}\n}}\n"


def steps(highest: float) -> list[float]:
    """Return the ticks of a scale from 0 that reaches the highest value: 1, 2 or 5 times a power of ten apart."""
    rough = max(highest, 1e-9) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [number * step for number in range(math.ceil(highest / step - 1e-9) + 1)]


def shape(name: str) -> str:
    """Return the classes of a server's line."""
    return f"line {name}{' ours' if name == OURS else ''}{' dashed' if name == CEILING else ''}"


def path(classes: str, places: Iterable[tuple[float, float]]) -> str:
    """Return a line through these places; a single one would be a line without length, so it is a dot."""
    written = [f"{across} {down}" for across, down in places]
    return f'<path class="{classes}" d="M{"L".join(written)}{"" if written[1:] else "h0"}"/>'


def text(words: str, x: float, y: float, style: str, anchor: str = "start") -> str:
    """Return words at a place."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(words)}</text>'
