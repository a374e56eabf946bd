"""The charts of a report: which there are, and which of the clients' stands beside which of the server's.

Decides what is drawn. It must not know how it is drawn or where on the page it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from .charts import Chart, Kind, Series, as_count, as_duration
from .figures import Clients
from .watch import Watch

__all__ = ["View", "refusals", "views"]

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
}
_ORDER: Final = [*_STYLES]


@dataclass(frozen=True)
class View:
    """A chart and the sentence that goes with it."""

    chart: Chart
    note: str


@dataclass(frozen=True)
class _Timeline:
    """Makes the charts of one side, which have their columns in common."""

    columns: Sequence[tuple[float, float]]
    until: float

    def chart(
        self, title: str, kind: Kind, series: Sequence[Series], note: str, write: Callable[[float], str] = as_count
    ) -> View:
        return View(Chart(title, kind, self.columns, series, self.until, write), note)


def views(clients: Clients, watch: Watch) -> list[tuple[View | None, View]]:
    """Return the charts in pairs: the clients' view of a matter, if they have one, and the server's."""
    until = max([1.0, len(clients.seconds), *(moment.end - clients.started for moment in watch.moments)])
    users, *ours = _of_clients(clients, until)
    jobs, *theirs, workers = _of_server(watch, clients.started, until)
    return [(users, jobs), *(_on_one_scale(*pair) for pair in zip(ours, theirs, strict=True)), (None, workers)]


def _on_one_scale(ours: View, theirs: View) -> tuple[View, View]:
    reach = max(ours.chart.highest, theirs.chart.highest)
    ours, theirs = (replace(view, chart=replace(view.chart, reach=reach)) for view in (ours, theirs))
    return ours, theirs


def refusals(shed_reasons: Mapping[str, float], outcomes: Mapping[str, float]) -> dict[str, float]:
    """Return all that was refused without being run; to the server a job that waited too long was not shed."""
    return {**shed_reasons, **{name: count for name, count in outcomes.items() if name == "expired"}}


def _of_clients(clients: Clients, until: float) -> list[View]:
    tallies = clients.seconds
    line = _Timeline([(float(second), second + 1.0) for second in range(len(tallies))], until)
    statuses = [
        {**tally.expected, "refused": tally.refused.total(), "unexpected": tally.unexpected.total()}
        for tally in tallies
    ]
    latencies = [
        Series("p50", "one", [tally.latencies.quantile(0.5) for tally in tallies]),
        Series("p99", "two", [tally.latencies.quantile(0.99) for tally in tallies]),
    ]
    refused = _by_name([tally.refused for tally in tallies])
    return [
        line.chart(
            "Users", "stairs", [Series("users", "one", clients.users)], "Each waits for an answer, then thinks."
        ),
        line.chart("Answers per second", "bars", _by_name(statuses), "By status, as far as it was expected."),
        line.chart("Latency", "lines", latencies, "Of the expected answers of each second.", as_duration),
        line.chart("Refused per second", "bars", refused, "Answers of 503 with a reason, by reason."),
    ]


def _of_server(watch: Watch, started: float, until: float) -> list[View]:
    moments = [moment for moment in watch.moments if moment.end > started]
    line = _Timeline([(max(0.0, moment.begin - started), moment.end - started) for moment in moments], until)
    jobs = [
        Series("running", "one", [moment.facts["running"] for moment in moments]),
        Series("queued", "shed", [moment.facts["queued"] for moment in moments]),
    ]
    workers = [Series("workers", "one", [moment.workers for moment in moments])]
    waits = [
        Series("mean of the second", "one", [moment.mean_wait for moment in moments]),
        Series("p50 so far", "gray", [moment.wait("p50") for moment in moments]),
        Series("p99 so far", "two", [moment.wait("p99") for moment in moments]),
    ]
    outcomes = [moment.rates("outcomes") for moment in moments]
    refused = [refusals(moment.rates("shed_reasons"), moment.rates("outcomes")) for moment in moments]
    return [
        line.chart("Running and queued", "lines", jobs, "At the end of each second."),
        line.chart("Jobs ended per second", "bars", _by_name(outcomes), "By outcome."),
        line.chart(
            "Queue wait", "lines", waits, "Of jobs that were run; so far means since the server's start.", as_duration
        ),
        line.chart("Shed per second", "bars", _by_name(refused), "Refused without being run, by reason."),
        line.chart("Workers", "stairs", workers, "Those that take jobs, at the end of each second."),
    ]


def _by_name(columns: Sequence[Mapping[str, float]]) -> list[Series]:
    """Return a series for each name that is ever above nothing, in the order of their styles."""
    names = {name for column in columns for name, value in column.items() if value}
    ordered = sorted(names, key=lambda name: (_ORDER.index(name) if name in _STYLES else len(_ORDER), name))
    return [Series(name, _STYLES.get(name, "gray"), [column.get(name, 0) for column in columns]) for name in ordered]
