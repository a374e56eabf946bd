"""What the charts of both sides have in common: their time, their colours, and a scale where they show one matter.

Decides how values in columns become a chart with its sentence. It must not know whose values they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from .charts import Chart, Kind, Series, as_count

__all__ = ["Timeline", "View", "by_name", "on_one_scale"]

_STYLES: Final = {
    "200": "ok",
    "refused": "shed",
    "unexpected": "bad",
    "completed": "ok",
    "shed": "shed",
    "expired": "shed-too",
    "failed": "bad",
    "timed_out": "bad-too",
    "queue_full": "shed",
    "overloaded": "one",
    "no_time": "two",
}
_ORDER: Final = [*_STYLES]
_OTHER_STYLES: Final = ("gray", "ok-too", "bad-too")
"""For names that nobody knows beforehand, in turn."""


@dataclass(frozen=True)
class View:
    """A chart and the sentence that goes with it."""

    chart: Chart
    note: str


@dataclass(frozen=True)
class Timeline:
    """Makes the charts of one side, which have their columns in common."""

    columns: Sequence[tuple[float, float]]
    until: float

    def chart(
        self, title: str, kind: Kind, series: Sequence[Series], note: str, write: Callable[[float], str] = as_count
    ) -> View:
        return View(Chart(title, kind, self.columns, series, self.until, write), note)


def on_one_scale(ours: View, theirs: View) -> tuple[View, View]:
    """Return both with the same scale, for they show the same matter."""
    reach = max(ours.chart.highest, theirs.chart.highest)
    ours, theirs = (replace(view, chart=replace(view.chart, reach=reach)) for view in (ours, theirs))
    return ours, theirs


def by_name(columns: Sequence[Mapping[str, float]]) -> list[Series]:
    """Return a series for each name that is ever above nothing, in the order of their styles."""
    names = {name for column in columns for name, value in column.items() if value}
    ordered = sorted(names, key=lambda name: (_ORDER.index(name) if name in _STYLES else len(_ORDER), name))
    others = itertools.cycle(_OTHER_STYLES)
    return [
        Series(name, _STYLES.get(name) or next(others), [column.get(name, 0) for column in columns]) for name in ordered
    ]
