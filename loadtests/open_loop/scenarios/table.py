"""Writes the scenarios as Markdown: what happened in each phase, and which goals were reached.

Decides columns. It must not know how a scenario is played or judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from ...side_by_side.markdown import table
from ..contenders import CONTENDERS
from ..seen import Seen
from ..usage import BUSY_OTHERS
from ..writing import counted, milliseconds, rate, titled
from .catalogue import SCENARIOS, Scenario
from .course import Course, Play

__all__ = ["scenario_parts"]


def scenario_parts(plays: Mapping[str, Mapping[str, Play]]) -> Iterator[str]:
    """Return headings, tables and lists of those that were played."""
    for name, scenario in SCENARIOS.items():
        if name in plays:
            yield from _scenario(scenario, plays[name])


def _scenario(scenario: Scenario, plays: Mapping[str, Play]) -> Iterator[str]:
    courses = {server: play.course for server in CONTENDERS if (play := plays.get(server)) and play.course}
    yield f"### {scenario.title} ({scenario.name})"
    yield f"{scenario.about}."
    rows = [row for server, course in courses.items() for row in _rows(server, course)]
    if rows:
        yield table(("server", "phase", "requests", *_FIGURES, "refused for", "errors"), rows)
    lines = [*_lines(courses), *_failures(plays)]
    if lines:
        yield "\n".join(lines)


def _rows(server: str, course: Course) -> Iterator[list[str]]:
    # What happens while the server begins is not told.
    for phase in [*course.phases][1:]:
        begin, end = course.phases[phase]
        for name, seen in course.seen[phase].items():
            figures = [write(seen, end - begin) for write in _FIGURES.values()]
            yield [titled(server), phase, name, *figures, counted(seen.reasons), counted(seen.errors)]


def _lines(courses: Mapping[str, Course]) -> Iterator[str]:
    for server, course in courses.items():
        for check in course.checks:
            yield f"- {titled(server)}: {check.sentence}"
        yield f"- {titled(server)}: {_generator(course.attempts)}; {_cores(course)}"


def _generator(seen: Seen) -> str:
    late = " / ".join(map(milliseconds, (seen.late_p50, seen.late_p99, seen.late_worst)))
    return (
        f"the generator sent late by {late} ms (p50 / p99 / worst), with {seen.busy:.0%} of its core "
        f"and {seen.connections:,} connections"
    )


def _cores(course: Course) -> str:
    spoilt = ", which spoils the figures" if course.others_busy > BUSY_OTHERS else ""
    return f"the server used {course.server_busy:.0%} of its core, others {course.others_busy:.0%}{spoilt}"


def _failures(plays: Mapping[str, Play]) -> Iterator[str]:
    for server in CONTENDERS:
        if (play := plays.get(server)) and play.failure:
            yield f"- {titled(server)} could not play it: {play.failure}"


_FIGURES: Final[Mapping[str, Callable[[Seen, float], str]]] = {
    "offered/s": lambda seen, seconds: rate(seen.sent / seconds),
    "goodput/s": lambda seen, seconds: rate(seen.useful / seconds),
    "admitted p50 ms": lambda seen, seconds: milliseconds(seen.admitted_p50),
    "p95": lambda seen, seconds: milliseconds(seen.admitted_p95),
    "p99": lambda seen, seconds: milliseconds(seen.admitted_p99),
    "refused/s": lambda seen, seconds: rate(seen.refused / seconds),
    "refusal p99 ms": lambda seen, seconds: milliseconds(seen.refusal_p99),
    "given up/s": lambda seen, seconds: rate(seen.given_up / seconds),
}
"""What is told of each phase: the column's header, and how its cells are written."""
