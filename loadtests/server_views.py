"""The charts of the server's side of a report, from what it said of itself.

Decides what of it is drawn. It must not know the clients, nor which charts a report has.
"""

from __future__ import annotations

from collections.abc import Mapping

from .charts import Series, as_duration
from .timeline import Timeline, View, by_name
from .watch import Watch

__all__ = ["ServerViews", "refusals"]


class ServerViews:
    """One method for each chart; time is in seconds since `started`, and ends at `until`."""

    def __init__(self, watch: Watch, started: float, until: float) -> None:
        self._moments = [moment for moment in watch.moments if moment.end > started]
        columns = [(max(0.0, moment.begin - started), moment.end - started) for moment in self._moments]
        self._line = Timeline(columns, until)

    def __repr__(self) -> str:
        return f"<ServerViews of {len(self._moments)} moments>"

    def jobs(self) -> View:
        """Return how many were in the server."""
        series = [
            Series("running", "one", [moment.facts["running"] for moment in self._moments]),
            Series("queued", "shed", [moment.facts["queued"] for moment in self._moments]),
        ]
        return self._line.chart("Running and queued", "lines", series, "At the end of each second.")

    def outcomes(self) -> View:
        """Return how jobs ended."""
        rates = [moment.rates("outcomes") for moment in self._moments]
        return self._line.chart("Jobs ended per second", "bars", by_name(rates), "By outcome.")

    def waits(self) -> View:
        """Return how long jobs waited that were run."""
        series = [
            Series("mean of the second", "one", [moment.mean("queue_wait") for moment in self._moments]),
            Series("p50 so far", "gray", [moment.so_far("queue_wait", "p50") for moment in self._moments]),
            Series("p99 so far", "two", [moment.so_far("queue_wait", "p99") for moment in self._moments]),
        ]
        note = "Of jobs that were run; so far means since the server's start."
        return self._line.chart("Queue wait", "lines", series, note, as_duration)

    def refused(self) -> View:
        """Return how many were refused, and why."""
        rates = [refusals(moment.rates("shed_reasons"), moment.rates("outcomes")) for moment in self._moments]
        return self._line.chart("Shed per second", "bars", by_name(rates), "Refused without being run, by reason.")

    def workers(self) -> View:
        """Return how many workers there were."""
        series = [Series("workers", "one", [moment.workers for moment in self._moments])]
        return self._line.chart("Workers", "stairs", series, "Those that take jobs, at the end of each second.")

    def hub_lag(self) -> View:
        """Return how long the event loop was busy in one go."""
        series = [
            Series("mean of the second", "one", [moment.mean("hub_lag") for moment in self._moments]),
            Series("p99 so far", "two", [moment.so_far("hub_lag", "p99") for moment in self._moments]),
        ]
        note = "How long the event loop was busy in one go, so that all else had to wait."
        return self._line.chart("Hub lag", "lines", series, note, as_duration)


def refusals(shed_reasons: Mapping[str, float], outcomes: Mapping[str, float]) -> dict[str, float]:
    """Return all that was refused without being run; to the server a job that waited too long was not shed."""
    return {**shed_reasons, **{name: count for name, count in outcomes.items() if name == "expired"}}
