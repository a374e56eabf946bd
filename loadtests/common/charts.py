"""Draws charts as SVG for light and dark pages. Without matplotlib, reports have no charts."""

from __future__ import annotations

import html
import importlib.util
import io
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from .report import write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEFT_OUT: Final = (
    "matplotlib is not installed, so the charts are left out; install it with: pip install 'intralb-gevent[loadtests]'"
)
COLOURS: Final = {
    "intralb": ("#2563eb", "#7aa7ff"),
    "gunicorn": ("#c2410c", "#fb923c"),
    "pywsgi": ("#a16207", "#facc15"),
    "pywsgi-nodelay": ("#4d7c0f", "#a3e635"),
    "waitress": ("#be185d", "#f472b6"),
    "granian": ("#0f766e", "#2dd4bf"),
    "uwsgi": ("#6d28d9", "#c4b5fd"),
    "intralb-fixed": ("#c2410c", "#fb923c"),
    "ceiling": ("#7b868c", "#8b979d"),
    "bar": ("#b9c3ca", "#56636b"),
    "text": ("#3f4a50", "#c3cbd0"),
    "paper": ("#fffffe", "#1b2023"),
    "grid": ("#e3e1da", "#2d3438"),
    # The colours of the HTML reports; page.html repeats them for the legends.
    "ok": ("#2a9d8f", "#3fb8a9"),
    "ok-too": ("#8ccfc6", "#1f6f67"),
    "shed": ("#e08a00", "#f0a53a"),
    "shed-too": ("#f2c166", "#8f6420"),
    "bad": ("#c62839", "#f2616f"),
    "bad-too": ("#8e3b8a", "#c07bd0"),
    "one": ("#2563eb", "#7aa7ff"),
    "two": ("#b4436c", "#f08bb0"),
    "gray": ("#94a0a6", "#77838a"),
}
"""The two variants of each colour: for a light page, and for a dark page."""
_POINTS_PER_INCH: Final = 72
_READING: Final = "reading-"
_SETTINGS: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "loadtests",
    "font.family": "sans-serif",
    "font.size": 11,
}


def available() -> bool:
    """Return whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def colour(name: str) -> str:
    """Return a colour's variant for light pages, which matplotlib uses; `svg` adds the variant for dark pages."""
    return COLOURS[name][0]


def panels(
    number: int, columns: int, size: tuple[int, int], title: str = "", about: str = ""
) -> tuple[Figure, list[Axes]]:
    """Return a figure of the given total size, with a title and `number` panels, arranged in `columns` columns."""
    from matplotlib.figure import Figure

    width, height = (pixels / _POINTS_PER_INCH for pixels in size)
    figure = Figure((width, height), layout="constrained", facecolor=colour("paper") if title else "none")
    rows = -(-number // columns)
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(number)]
    if title:
        figure.suptitle(f"{title}\n{about}" if about else title, x=0.01, ha="left", color=colour("text"))
    for axis in axes:
        axis.set_facecolor("none")
        axis.tick_params(colors=colour("text"), length=0)
        axis.spines[:].set_visible(False)
        axis.grid(axis="y", color=colour("grid"))
        axis.set_axisbelow(True)
    return figure, axes


def title(axis: Axes, text: str) -> None:
    """Write the title of a panel."""
    axis.set_title(text, loc="left", color=colour("text"), fontsize="large")


def logarithmic(axis: Axes, low: float, high: float) -> None:
    """Make a panel's value axis logarithmic, with labels at the powers of ten."""
    axis.set_yscale("log")
    axis.set_ylim(low, high)
    axis.yaxis.set_major_formatter("{x:,g}")
    axis.tick_params(axis="y", which="minor", length=0)


def legend(axis: Axes, **more: Any) -> None:
    """Add a legend for the lines of a panel."""
    axis.legend(labelcolor=colour("text"), frameon=False, fontsize="small", **more)


def add_readings(axis: Axes, columns: Sequence[tuple[float, float]]) -> None:
    """Put an invisible bar over each column of a chart; `svg` turns the bars into tooltips with the values."""
    for number, (begin, end) in enumerate(columns):
        axis.axvspan(begin, end, alpha=0.0, gid=f"{_READING}{number}")


def svg(figure: Figure, name: str, readings: Sequence[str] = ()) -> str:
    """Return the figure as an SVG element with `name` as its accessible name and `readings` as its tooltips."""
    import matplotlib

    target = io.StringIO()
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(target, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    head = f'<svg role="img" aria-label="{html.escape(name)}" '
    text = re.sub(r"^.*?<svg ", lambda _: head, target.getvalue(), count=1, flags=re.DOTALL)
    for number, reading in enumerate(readings):
        opening = f'<g id="{_READING}{number}">'
        text = text.replace(opening, f'<g class="reading"><title>{html.escape(reading)}</title>', 1)
    return text.replace("<defs>", f"<style>{_dark_style()}</style>\n<defs>", 1)


def write_all(directory: pathlib.Path, draw: Callable[[], Mapping[str, str]]) -> str:
    """If matplotlib is installed, write the charts that `draw` returns by name; return a sentence for the report."""
    if not available():
        return LEFT_OUT
    for name, chart in draw().items():
        write(directory, name, chart)
    return "the charts are beside them"


def _dark_style() -> str:
    rules: Mapping[str, str] = dict(COLOURS.values())
    lines = [
        f'svg [style*="{kind}: {light}"] {{ {kind}: {dark} !important; }}'
        for light, dark in rules.items()
        for kind in ("fill", "stroke")
    ]
    return "@media (prefers-color-scheme: dark) {\n" + "\n".join(lines) + "\n}"
