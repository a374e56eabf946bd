"""Writes results as Markdown tables.

Decides columns and how figures are written. It must not know how things are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from ..side_by_side.markdown import table
from .contenders import CONTENDERS
from .goals import steady_checks
from .results import Point, Results
from .scenarios.table import scenario_parts
from .workloads import WORKLOADS, Workload
from .writing import counted, milliseconds, rate, titled

__all__ = ["as_markdown"]

_LATE: Final = " (!)"
_DISTURBED: Final = " (?)"


def as_markdown(results: Results) -> str:
    """Return all results: what they are about, then for each workload what was found."""
    about = "\n".join(f"- {name}: {value}" for name, value in results.about.items())
    workloads = [workload for name, workload in WORKLOADS.items() if name in results.entries]
    parts = [about, *(part for workload in workloads for part in _workload(results, workload))]
    return "\n\n".join([*parts, *scenario_parts(results.plays)]) + "\n"


def _workload(results: Results, workload: Workload) -> Iterator[str]:
    yield f"### {workload.title} ({workload.name})"
    yield _costs(results, workload)
    rows = list(_rows(results, workload))
    if rows:
        yield table(("server", "load", *_FIGURES, "ceiling", "of it", "errors"), rows)
    checks = [f"- {check.sentence}" for check in steady_checks(results, workload.name)]
    if checks:
        yield "\n".join(checks)
    remarks = list(_remarks(results, workload))
    if remarks:
        yield "\n".join(remarks)


def _costs(results: Results, workload: Workload) -> str:
    costs = results.costs.get(workload.name)
    capacity = f"Capacity {results.capacity(workload.name):.0f}/s{_allowed(results, workload)}."
    if costs is None:
        return f"{capacity} The costs of a request and a refusal could not be measured, so the ceiling is not known."
    return (
        f"{capacity} A request was measured to cost our server {costs.request * 1e6:,.0f} µs of its core, "
        f"a refusal {costs.refusal * 1e6:,.0f} µs: k = {costs.k:.3f}."
    )


def _allowed(results: Results, workload: Workload) -> str:
    connected = results.connected.get(workload.name)
    return f"; the connections were measured to allow {connected:.0f}/s" if connected else ""


def _rows(results: Results, workload: Workload) -> Iterator[list[str]]:
    for server in CONTENDERS:
        entry = results.entries[workload.name].get(server)
        for point in entry.points if entry else ():
            figures = [write(point) for write in _FIGURES.values()]
            yield [
                titled(server),
                f"{point.load:g}",
                *figures,
                *_ceiling(results, workload, point),
                counted(point.seen.errors),
            ]


def _ceiling(results: Results, workload: Workload, point: Point) -> tuple[str, str]:
    ceiling = results.ceiling_of(workload.name, point)
    if ceiling is None:
        return "", ""
    return rate(ceiling), f"{point.goodput / ceiling:.0%}" if ceiling else ""


def _remarks(results: Results, workload: Workload) -> Iterator[str]:
    entries = results.entries[workload.name]
    servers = {server: entries[server] for server in CONTENDERS if server in entries}
    points = [point for entry in servers.values() for point in entry.points]
    if any(point.generator_failed for point in points):
        yield f"-{_LATE}: the generator was late or had no time left, so that the figures are not of the server alone"
    if any(point.disturbed for point in points):
        yield f"-{_DISTURBED}: others used the server's core, so that it could do less than its capacity"
    for server, entry in servers.items():
        for load, reason in entry.failures.items():
            yield f"- {CONTENDERS[server].title} could not be measured at {load}: {reason}"


def _busy(point: Point) -> str:
    return f"{point.server_busy:.0%} / {point.others_busy:.0%}" + (_DISTURBED if point.disturbed else "")


def _late(point: Point) -> str:
    figures = (point.seen.late_p50, point.seen.late_p99, point.seen.late_worst)
    return " / ".join(map(milliseconds, figures)) + (_LATE if point.generator_failed else "")


_FIGURES: Final[Mapping[str, Callable[[Point], str]]] = {
    "offered/s": lambda point: rate(point.offered),
    "goodput/s": lambda point: rate(point.goodput),
    "admitted p50 ms": lambda point: milliseconds(point.seen.admitted_p50),
    "admitted p99 ms": lambda point: milliseconds(point.seen.admitted_p99),
    "refused/s": lambda point: rate(point.seen.refused / point.seconds),
    "refusal p50 ms": lambda point: milliseconds(point.seen.refusal_p50),
    "refusal p99 ms": lambda point: milliseconds(point.seen.refusal_p99),
    "given up/s": lambda point: rate(point.seen.given_up / point.seconds),
    "CPU: server / others there": _busy,
    "generator CPU": lambda point: f"{point.seen.busy:.0%}",
    "sent late ms: p50 / p99 / worst": _late,
}
"""What a table tells of each point: the column's header, and how its cells are written."""
