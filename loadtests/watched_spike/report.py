"""Writes the watched overload down as one HTML page: what the users saw, beside what the server said of itself.

Decides which figures there are and how they are written. It must not know how they were gained.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from ..charts import as_count, as_duration
from ..figures import Latencies
from ..page import Tile, fill
from ..server_views import ServerViews, refusals
from ..watch import Watch
from .load import PATIENCE_SECONDS, PERIOD_SECONDS, PRIORITY_HEADER
from .phases import Phase, Phases
from .seen import GIVEN_UP, LATE, REFUSED, USEFUL, Seen
from .verdict import Verdict
from .views import views

__all__ = ["Run", "render"]

_KINDS = (USEFUL, LATE, REFUSED, GIVEN_UP)


@dataclass(frozen=True)
class Run:
    """What was run, in words."""

    title: str
    parsed: argparse.Namespace
    began: str
    target: str
    flags: Sequence[str]
    """What the server was started with."""


def render(run: Run, seen: Seen, phases: Phases, watch: Watch, verdict: Verdict) -> str:
    """Return the page; it needs no other file, and nothing from elsewhere."""
    pairs = views(seen, watch)
    until = pairs[0][0].chart.until
    return fill(
        "watched_spike/report.html",
        run=run,
        verdict=verdict,
        user_tiles=_user_tiles(phases, seen, run.parsed.capacity),
        server_tiles=_server_tiles(watch),
        rows=pairs,
        phases=[_phase(phase) for phase in phases.all],
        classes=[_class(name, phases.spike) for name in phases.spike.classes],
        workers=ServerViews(watch, seen.started, until).workers(),
        patience=as_count(PATIENCE_SECONDS),
        period=as_count(PERIOD_SECONDS),
        header=PRIORITY_HEADER,
    )


def _user_tiles(phases: Phases, seen: Seen, capacity: float) -> list[Tile]:
    spike, total = phases.spike, seen.total
    useful = spike.rate(spike.total.counts[USEFUL])
    return [
        Tile("came per second in the spike", as_count(spike.rate(spike.total.sent))),
        Tile("of these answered in time", as_count(useful)),
        Tile("which is of the capacity", f"{useful / capacity:.0%}"),
        Tile("p99 before", _quantile(phases.before.total.admitted)),
        Tile("p99 in the spike", _quantile(spike.total.admitted)),
        Tile("p99 after", _quantile(phases.after.total.admitted)),
        Tile("refused", f"{total.counts[REFUSED]:,}", "shed" if total.counts[REFUSED] else ""),
        Tile("gave up", f"{total.counts[GIVEN_UP]:,}", "bad" if total.counts[GIVEN_UP] else ""),
        Tile("sent late in the spike, p99", _quantile(spike.total.sent_late)),
    ]


def _server_tiles(watch: Watch) -> list[Tile]:
    refused = sum(refusals(watch.shed_reasons, watch.outcomes).values())
    few, many = watch.fewest_workers, watch.most_workers
    return [
        Tile("jobs ended", f"{watch.ended:,}"),
        Tile("completed", f"{watch.outcomes.get('completed', 0):,}"),
        Tile("shed or expired", f"{refused:,}", "shed" if refused else ""),
        Tile("running at most", _most(watch, "running")),
        Tile("queued at most", _most(watch, "queued")),
        Tile("workers", f"{few}" if few == many else f"{few} to {many}"),
        Tile("queue wait p99", as_duration(watch.last["queue_wait"]["p99"] * 1000)),
        Tile("hub lag p99", as_duration(watch.last["hub_lag"]["p99"] * 1000)),
        Tile("longest hub lag", as_duration(watch.last["hub_lag"]["longest"] * 1000)),
    ]


def _most(watch: Watch, name: str) -> str:
    return f"{max((moment.facts[name] for moment in watch.moments), default=0):,}"


def _phase(phase: Phase) -> list[str]:
    total = phase.total
    rates = [total.sent, *(total.counts[kind] for kind in _KINDS), total.errors.total()]
    latencies = [_quantile(total.admitted, 0.5), _quantile(total.admitted), _quantile(total.refusals)]
    return [phase.name, f"{phase.seconds}", *(as_count(phase.rate(count)) for count in rates), *latencies]


def _class(name: str, spike: Phase) -> list[str]:
    ends = spike.classes[name]
    rates = [as_count(spike.rate(count)) for count in (ends.sent, ends.counts[USEFUL], ends.counts[REFUSED])]
    return [name, *rates, f"{ends.useful_share:.0%}", _quantile(ends.admitted)]


def _quantile(latencies: Latencies, share: float = 0.99) -> str:
    milliseconds = latencies.quantile(share)
    return "none" if milliseconds is None else as_duration(milliseconds)
