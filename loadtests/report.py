"""Writes a run down as one HTML page: what the clients saw, beside what the server said of itself.

Decides which figures there are and how they are written. It must not know how they were gained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .charts import as_count, as_duration
from .figures import Clients, Tally
from .page import Tile, fill
from .server_views import refusals
from .verdict import Check
from .views import views
from .watch import Watch

__all__ = ["Run", "render"]


@dataclass(frozen=True)
class Run:
    """What was run, in words."""

    scenario: str
    shape: str
    users: int
    seconds: int
    began: str
    target: str
    flags: Sequence[str]
    """What the server was started with, if it was started for this run."""


def render(run: Run, clients: Clients, watch: Watch, checks: Sequence[Check]) -> str:
    """Return the page; it needs no other file, and nothing from elsewhere."""
    return fill(
        "report.html",
        run=run,
        checks=checks,
        passed=all(check.passed for check in checks),
        saturated=clients.saturated,
        client_tiles=_client_tiles(clients),
        server_tiles=_server_tiles(watch),
        rows=views(clients, watch),
        pages=[_page(name, tally) for name, tally in sorted(clients.pages.items())],
        comparison=_comparison(clients, watch),
        problems=[(page, message, f"{count:,}") for (page, message), count in clients.problems.most_common()],
    )


def _client_tiles(clients: Clients) -> list[Tile]:
    total = clients.total
    refused, unexpected = total.refused.total(), total.unexpected.total()
    return [
        Tile("requests", f"{total.requests:,}"),
        Tile("a second", as_count(total.requests / max(1, len(clients.seconds)))),
        Tile("latency p50", _quantile(total, 0.5)),
        Tile("latency p99", _quantile(total, 0.99)),
        Tile("refused", f"{refused:,}", "shed" if refused else ""),
        Tile("unexpected", f"{unexpected:,}", "bad" if unexpected else ""),
    ]


def _server_tiles(watch: Watch) -> list[Tile]:
    wait, shed = watch.last["queue_wait"], sum(watch.shed_reasons.values())
    few, many = watch.fewest_workers, watch.most_workers
    return [
        Tile("jobs ended", f"{watch.ended:,}"),
        Tile("workers", f"{few}" if few == many else f"{few} to {many}"),
        Tile("queue wait p50", as_duration(wait["p50"] * 1000)),
        Tile("queue wait p99", as_duration(wait["p99"] * 1000)),
        Tile("shed", f"{shed:,}", "shed" if shed else ""),
        Tile("queued at most", f"{max((moment.facts['queued'] for moment in watch.moments), default=0):,}"),
    ]


def _page(name: str, tally: Tally) -> list[str]:
    counts = [f"{counter.total():,}" for counter in (tally.expected, tally.refused, tally.unexpected)]
    return [name, *counts, *(_quantile(tally, share) for share in (0.5, 0.99, 1.0))]


def _quantile(tally: Tally, share: float) -> str:
    milliseconds = tally.latencies.quantile(share)
    return "none" if milliseconds is None else as_duration(milliseconds)


def _comparison(clients: Clients, watch: Watch) -> list[tuple[str, str, str, str]]:
    """Return what each side counted of the same matter: the clients' name and figure, the server's figure and name."""
    total, outcomes = clients.total, watch.outcomes
    refused = refusals(watch.shed_reasons, outcomes)
    others = sum(outcomes.values()) - outcomes.get("completed", 0) - sum(refused.values())
    counts: list[tuple[str, float, float, str]] = [
        ("answers", total.answers, watch.ended, "jobs ended"),
        ("expected", total.expected.total(), outcomes.get("completed", 0), "completed"),
        *((f"refused: {each}", total.refused[each], refused.get(each, 0), each) for each in {*total.refused, *refused}),
        ("unexpected", total.unexpected.total(), others, "all other outcomes"),
    ]
    return [(name, f"{count:,.0f}", f"{its_count:,.0f}", its_name) for name, count, its_count, its_name in counts]
