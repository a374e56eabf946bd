"""Formats results as Markdown tables, and draws charts of them against the load and over time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ..common import charts
from ..common.report import about_lines, counted, milliseconds, rate, table
from ..common.servers import OURS, titled
from .results import Course, Play, Point, Results, steady_checks
from .scenarios import SCENARIOS, Scenario
from .seen import SLO_SECONDS, TENTH, Seen
from .serving import BUSY_OTHERS, CONTENDERS, WORKLOADS, Workload

_LATE: Final = " (!)"
_DISTURBED: Final = " (?)"


def as_markdown(results: Results) -> str:
    """Format all results: the conditions of the measurement, then the tables of each workload."""
    workloads = [workload for name, workload in WORKLOADS.items() if name in results.entries]
    parts = [about_lines(results.about), *(part for workload in workloads for part in _workload(results, workload))]
    scenarios = (_scenario(each, results.plays[name]) for name, each in SCENARIOS.items() if name in results.plays)
    return "\n\n".join([*parts, *itertools.chain.from_iterable(scenarios)]) + "\n"


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
    connected = results.connected.get(workload.name)
    allowed = f"; the connections were measured to allow {connected:.0f}/s" if connected else ""
    capacity = f"Capacity {results.capacity(workload.name):.0f}/s{allowed}."
    if costs is None:
        return f"{capacity} The costs of a request and a refusal could not be measured, so the ceiling is not known."
    return (
        f"{capacity} A request was measured to cost our server {costs.request * 1e6:,.0f} µs of its core, "
        f"a refusal {costs.refusal * 1e6:,.0f} µs: k = {costs.k:.3f}."
    )


def _rows(results: Results, workload: Workload) -> Iterator[list[str]]:
    for server, contender in CONTENDERS.items():
        entry = results.entries[workload.name].get(server)
        for point in entry.points if entry else ():
            figures = [write(point) for write in _FIGURES.values()]
            most = results.ceiling_of(workload.name, point)
            share = f"{point.goodput / most:.0%}" if most else ""
            ceiling = ["" if most is None else rate(most), share]
            yield [titled(contender), f"{point.load:g}", *figures, *ceiling, counted(point.seen.errors)]


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


def _late(seen: Seen) -> str:
    return " / ".join(map(milliseconds, (seen.late_p50, seen.late_p99, seen.late_worst)))


_FIGURES: Final[Mapping[str, Callable[[Point], str]]] = {
    "offered/s": lambda point: rate(point.offered),
    "goodput/s": lambda point: rate(point.goodput),
    "admitted p50 ms": lambda point: milliseconds(point.seen.admitted_p50),
    "admitted p99 ms": lambda point: milliseconds(point.seen.admitted_p99),
    "refused/s": lambda point: rate(point.seen.refused / point.seconds),
    "refusal p50 ms": lambda point: milliseconds(point.seen.refusal_p50),
    "refusal p99 ms": lambda point: milliseconds(point.seen.refusal_p99),
    "given up/s": lambda point: rate(point.seen.given_up / point.seconds),
    "CPU: server / others there": lambda point: (
        f"{point.server_busy:.0%} / {point.others_busy:.0%}" + (_DISTURBED if point.disturbed else "")
    ),
    "generator CPU": lambda point: f"{point.seen.busy:.0%}",
    "sent late ms: p50 / p99 / worst": lambda point: _late(point.seen) + (_LATE if point.generator_failed else ""),
}
"""The columns of a workload's table: each header, with the function that formats its cells."""


def _scenario(scenario: Scenario, plays: Mapping[str, Play]) -> Iterator[str]:
    courses = {server: play.course for server in CONTENDERS if (play := plays.get(server)) and play.course}
    yield f"### {scenario.title} ({scenario.name})"
    yield f"{scenario.about}."
    rows = [row for server, course in courses.items() for row in _phase_rows(server, course)]
    if rows:
        yield table(("server", "phase", "requests", *_PHASE_FIGURES, "refused for", "errors"), rows)
    lines = [f"- {titled(CONTENDERS[server])}: {line}" for server, course in courses.items() for line in _lines(course)]
    failed = {server: plays[server].failure for server in CONTENDERS if server in plays and plays[server].failure}
    lines += [f"- {titled(CONTENDERS[server])} could not play it: {failure}" for server, failure in failed.items()]
    if lines:
        yield "\n".join(lines)


def _phase_rows(server: str, course: Course) -> Iterator[list[str]]:
    # Skip the first phase, in which the server starts.
    for phase in [*course.phases][1:]:
        begin, end = course.phases[phase]
        for name, seen in course.seen[phase].items():
            figures = [write(seen, end - begin) for write in _PHASE_FIGURES.values()]
            yield [titled(CONTENDERS[server]), phase, name, *figures, counted(seen.reasons), counted(seen.errors)]


def _lines(course: Course) -> Iterator[str]:
    for check in course.checks:
        yield check.sentence
    sent, spoilt = course.attempts, ", which spoils the figures" if course.others_busy > BUSY_OTHERS else ""
    yield (
        f"the generator sent late by {_late(sent)} ms (p50 / p99 / worst), with {sent.busy:.0%} of its core and "
        f"{sent.connections:,} connections; the server used {course.server_busy:.0%} of its core, others "
        f"{course.others_busy:.0%}{spoilt}"
    )


_PHASE_FIGURES: Final[Mapping[str, Callable[[Seen, float], str]]] = {
    "offered/s": lambda seen, seconds: rate(seen.sent / seconds),
    "goodput/s": lambda seen, seconds: rate(seen.useful / seconds),
    "admitted p50 ms": lambda seen, seconds: milliseconds(seen.admitted_p50),
    "p95": lambda seen, seconds: milliseconds(seen.admitted_p95),
    "p99": lambda seen, seconds: milliseconds(seen.admitted_p99),
    "refused/s": lambda seen, seconds: rate(seen.refused / seconds),
    "refusal p99 ms": lambda seen, seconds: milliseconds(seen.refusal_p99),
    "given up/s": lambda seen, seconds: rate(seen.given_up / seconds),
}
"""The columns of a scenario's table: each header, with the function that formats its cells."""


if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CEILING: Final = "ceiling"
_P99_MILLISECONDS: Final = (1, 10_000)
_HUES: Final = ("intralb", "gunicorn", "granian", "uwsgi")
"""Server names whose colours are reused for the streams of a scenario."""


def draw(results: Results, workload: Workload) -> str:
    """Draw the chart of a workload as SVG: a line for each server, and one for the maximum possible goodput."""
    entries = {name: entry for name, entry in results.entries[workload.name].items() if entry.points}
    capacity = f"capacity {results.capacity(workload.name):.0f} requests/s"
    about = f"One process on one core; {capacity}. Poisson arrivals, open loop."
    figure, (goodput, slow) = charts.panels(2, 2, (960, 430), f"Past capacity: {workload.title}", about)
    # The offered load is the same for every server.
    offered = {point.load: point.offered for entry in entries.values() for point in entry.points}
    possible = {load: results.ceiling(workload.name, offered[load]) for load in sorted(offered)}
    charts.title(goodput, f"Goodput, answers within {SLO_SECONDS * 1000:.0f} ms per second")
    if None not in possible.values():
        _draw_line(goodput, _CEILING, [*possible], [*possible.values()])
    charts.title(slow, "p99 of what was not refused, ms")
    slow.axhline(SLO_SECONDS * 1000, linestyle="--", color=charts.colour(_CEILING), label="useful below this")
    # Draw our server last, so that its line covers the other lines.
    for name in sorted(entries, key=lambda name: name == OURS):
        loads = [point.load for point in entries[name].points]
        _draw_line(goodput, name, loads, [point.goodput for point in entries[name].points])
        _draw_line(slow, name, loads, [point.seen.admitted_p99 for point in entries[name].points])
    charts.logarithmic(slow, *_P99_MILLISECONDS)
    goodput.set_ylim(bottom=0)
    for panel in (goodput, slow):
        _against_load(panel, sorted(offered))
    return charts.svg(figure, f"{workload.title}: goodput and p99 past capacity")


def _draw_line(panel: Axes, name: str, loads: Sequence[float], values: Sequence[float | None]) -> None:
    style = "--" if name == _CEILING else "-"
    label = name if name == _CEILING else CONTENDERS[name].title
    width = 3.4 if name == OURS else 1.8
    panel.plot(loads, values, style, marker=".", color=charts.colour(name), linewidth=width, label=label)  # type: ignore[arg-type]


def _against_load(panel: Axes, loads: Sequence[float]) -> None:
    panel.set_xscale("log")
    panel.set_xticks(loads, [f"{load:g}" for load in loads])
    panel.set_xticks([], minor=True)
    panel.set_xlabel("times the capacity", color=charts.colour("text"))
    charts.legend(panel)


def draw_scenario(scenario: Scenario, courses: Mapping[str, Course]) -> str:
    """Draw the chart of a scenario as SVG, with two rows for each server."""
    about = f"{scenario.about.replace('`', '')}."
    size = (960, 90 + 2 * 208 * len(courses))
    figure, panels = charts.panels(2 * len(courses), 1, size, scenario.title, about)
    for number, (server, course) in enumerate(courses.items()):
        rates, slow = panels[2 * number : 2 * number + 2]
        title = CONTENDERS[server].title
        charts.title(rates, f"{title}: sent and useful, per second")
        charts.title(slow, f"{title}: p99 of what was not refused, ms")
        _draw_course(rates, slow, course)
    return charts.svg(figure, f"{scenario.title}: goodput and p99 over time")


def _draw_course(rates: Axes, slow: Axes, course: Course) -> None:
    for hue, (name, line) in zip(_HUES, course.timelines.items(), strict=False):
        tenths = [(number + 0.5) * TENTH for number in range(len(line.sent))]
        colour = charts.colour(hue)
        rates.plot(tenths, [count / TENTH for count in line.sent], "--", color=colour, label=f"{name}: sent")
        rates.plot(tenths, [count / TENTH for count in line.useful], color=colour, label=f"{name}: useful")
        slow.plot(tenths, line.p99, color=colour, label=f"{name}: p99")  # type: ignore[arg-type]
    charts.logarithmic(slow, *_P99_MILLISECONDS)
    rates.set_ylim(bottom=0)
    for panel in (rates, slow):
        for begin, _ in course.phases.values():
            panel.axvline(begin, color=charts.colour("grid"))
        # Leave the first phase, in which the server starts, without a name.
        phases = [*course.phases.items()][1:]
        names = [f"{name}, from {span.begin:.1f} s" for name, span in phases]
        panel.set_xticks([span.begin for _, span in phases], names, ha="left")
        panel.set_xlim(0, max(span.end for span in course.phases.values()))
        charts.legend(panel, loc="upper left", ncols=4)
