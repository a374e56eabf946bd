"""The charts of a report: which there are, and which of the clients' stands beside which of the server's.

Decides what is drawn. It must not know how it is drawn or where on the page it goes.
"""

from __future__ import annotations

from .charts import Series, as_duration
from .figures import Clients
from .server_views import ServerViews
from .timeline import Timeline, View, by_name, on_one_scale
from .watch import Watch

__all__ = ["views"]


def views(clients: Clients, watch: Watch) -> list[tuple[View | None, View]]:
    """Return the charts in pairs: the clients' view of a matter, if they have one, and the server's."""
    until = max([1.0, len(clients.seconds), *(moment.end - clients.started for moment in watch.moments)])
    users, *ours = _of_clients(clients, until)
    server = ServerViews(watch, clients.started, until)
    theirs = [server.outcomes(), server.waits(), server.refused()]
    pairs = [on_one_scale(*pair) for pair in zip(ours, theirs, strict=True)]
    return [(users, server.jobs()), *pairs, (None, server.workers())]


def _of_clients(clients: Clients, until: float) -> list[View]:
    tallies = clients.seconds
    line = Timeline([(float(second), second + 1.0) for second in range(len(tallies))], until)
    statuses = [
        {**tally.expected, "refused": tally.refused.total(), "unexpected": tally.unexpected.total()}
        for tally in tallies
    ]
    latencies = [
        Series("p50", "one", [tally.latencies.quantile(0.5) for tally in tallies]),
        Series("p99", "two", [tally.latencies.quantile(0.99) for tally in tallies]),
    ]
    refused = by_name([tally.refused for tally in tallies])
    return [
        line.chart(
            "Users", "stairs", [Series("users", "one", clients.users)], "Each waits for an answer, then thinks."
        ),
        line.chart("Answers per second", "bars", by_name(statuses), "By status, as far as it was expected."),
        line.chart("Latency", "lines", latencies, "Of the expected answers of each second.", as_duration),
        line.chart("Refused per second", "bars", refused, "Answers of 503 with a reason, by reason."),
    ]
