"""The charts of the watched overload: which there are, and which of the users' stands beside which of the server's.

Decides what is drawn. It must not know how it is drawn or where on the page it goes.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..charts import Series, as_duration
from ..server_views import ServerViews
from ..timeline import Timeline, View, on_one_scale
from ..watch import Watch
from .load import CLASSES
from .seen import GIVEN_UP, LATE, REFUSED, SLO_SECONDS, USEFUL, Ends, Seen

__all__ = ["views"]

_KINDS = {USEFUL: "ok", LATE: "ok-too", REFUSED: "shed", GIVEN_UP: "bad-too"}
_CLASSES = dict(zip(CLASSES, ("two", "one", "gray"), strict=True))


def views(seen: Seen, watch: Watch) -> list[tuple[View, View]]:
    """Return the charts in pairs: the users' view of a matter, and the server's."""
    until = max([1.0, len(seen.seconds), *(moment.end - seen.started for moment in watch.moments)])
    users, server = _UserViews(seen, until), ServerViews(watch, seen.started, until)
    return [
        (users.users(), server.jobs()),
        on_one_scale(users.ends(), server.outcomes()),
        (users.useful(), server.hub_lag()),
        on_one_scale(users.admitted(), server.waits()),
        on_one_scale(users.refused(), server.refused()),
    ]


class _UserViews:
    """One method for each chart of the users' side."""

    def __init__(self, seen: Seen, until: float) -> None:
        self._seconds = seen.seconds
        self._totals = [second.total for second in seen.seconds]
        self._line = Timeline([(float(second), second + 1.0) for second in range(len(seen.seconds))], until)

    def users(self) -> View:
        series = [Series("users", "one", [second.most_users for second in self._seconds])]
        return self._line.chart("Users", "stairs", series, "Each asks at its own instants, whatever is answered.")

    def ends(self) -> View:
        series = [*self._kinds()]
        note = "All that were to be sent in a second, by what became of them."
        return self._line.chart("Requests per second", "bars", series, note)

    def _kinds(self) -> Iterator[Series]:
        for kind, style in _KINDS.items():
            if any(ends.counts[kind] for ends in self._totals):
                yield Series(kind, style, [ends.counts[kind] for ends in self._totals])
        if any(ends.errors for ends in self._totals):
            yield Series("errors", "bad", [ends.errors.total() for ends in self._totals])

    def useful(self) -> View:
        note = f"Goodput: status 200 within {SLO_SECONDS * 1000:.0f} ms, by what the user said of itself."
        return self._line.chart("Useful answers per second", "bars", [*self._by_class(USEFUL)], note)

    def refused(self) -> View:
        note = "503 or 429 and not executed, by what the user said of itself."
        return self._line.chart("Refused per second", "bars", [*self._by_class(REFUSED)], note)

    def _by_class(self, kind: str) -> Iterator[Series]:
        for name, style in _CLASSES.items():
            counts = [second.classes.get(name, Ends()).counts[kind] for second in self._seconds]
            if any(counts):
                yield Series(name, style, counts)

    def admitted(self) -> View:
        series = [
            Series("p50", "one", [ends.admitted.quantile(0.5) for ends in self._totals]),
            Series("p99", "two", [ends.admitted.quantile(0.99) for ends in self._totals]),
        ]
        note = "Of what was answered 200 or given up, from when it was to be sent."
        return self._line.chart("Latency of the admitted", "lines", series, note, as_duration)
