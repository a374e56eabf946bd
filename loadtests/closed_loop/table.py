"""Writes results as Markdown tables.

Decides columns and how figures are written. It must not know how things are measured.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..side_by_side.markdown import table
from ..side_by_side.servers import OURS, SERVERS
from .clients import Seen
from .crowds import Crowd
from .flood import Flooded
from .results import Results

__all__ = ["as_markdown"]

_HEADER = ("clients", "server", "answers/s", "p50 ms", "p99 ms", "longest ms", "least - most served", "others than 200")
_FLOOD_HEADER = ("the flood is", "answers/s before / during / after", "refused", "the last of these after its end")
_TITLES = {"cpu": "Requests that compute", "db": "Requests that wait with one of ten connections"}


def as_markdown(results: Results) -> str:
    """Return all results: what they are about, a table for each kind of crowd, and what was not reached."""
    about = "\n".join(f"- {name}: {value}" for name, value in results.about.items())
    parts = [about]
    for title, crowds in _groups(results):
        rows = [_row(crowd, name, seen) for crowd in crowds for name, seen in results.seen[crowd].items()]
        parts += [f"### {title}", table(_HEADER, rows)]
    if results.floods:
        rows = [_flood_row(flood, flooded) for flood, flooded in results.floods.items()]
        parts += ["### A flood beside 20 clients", table(_FLOOD_HEADER, rows)]
    misses = [*results.failures, *results.misses()]
    parts.append("\n".join(f"- not reached: {miss}" for miss in misses) or "All goals are reached.")
    return "\n\n".join(parts) + "\n"


def _groups(results: Results) -> Iterator[tuple[str, list[Crowd]]]:
    for kind, title in _TITLES.items():
        if crowds := [crowd for crowd in results.seen if crowd.kind == kind and not crowd.assets]:
            yield title, crowds
    if pages := [crowd for crowd in results.seen if crowd.assets]:
        yield "Browsers that load a page", pages


def _flood_row(flood: str, flooded: Flooded) -> list[str]:
    figures = (flooded.before, flooded.during, flooded.after)
    refused = (flooded.refused_before, flooded.refused_during, flooded.refused_after)
    return [
        flood,
        " / ".join(f"{figure:.1f}" for figure in figures),
        " / ".join(f"{count:,}" for count in refused),
        f"{flooded.refused_until:.1f} s",
    ]


def _row(crowd: Crowd, name: str, seen: Seen) -> list[str]:
    title = f"**{SERVERS[name].title}**" if name == OURS else SERVERS[name].title
    waits = [f"{1000 * seen.percentile(share):,.0f}" for share in (0.5, 0.99, 1)]
    others = ", ".join(f"{answer} {count:,}" for answer, count in sorted(seen.answers.items()) if answer != "200")
    served = f"{min(seen.served)} - {max(seen.served)}" if seen.served else ""
    return [crowd.name, title, f"{seen.per_second:,.1f}", *waits, served, others or "0"]
