"""Writes results as Markdown tables that can be read as they are.

Decides columns and how figures are written. It must not know how things are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from .cases import CASES, IDLE, Case
from .goals import IDLE_BYTES, idle_bytes, reached
from .markdown import table
from .results import Entry, Results
from .servers import OURS, SERVERS

__all__ = ["as_markdown", "kilobytes", "rate"]

_MEGABYTE: Final = 1024 * 1024
_Write = Callable[[float], str]


def as_markdown(results: Results) -> str:
    """Return all results: a table for each case, then the goals."""
    cases = [case for name, case in CASES.items() if name in results.entries]
    parts = [_about(results), *(_case(results, case) for case in cases)]
    goals = list(_goals(results))
    if goals:
        parts.append("### Goals\n\n" + table(("case", "beside", "wanted", "measured", "reached"), goals))
    return "\n\n".join(parts) + "\n"


def rate(value: float) -> str:
    """Write a number of requests per second."""
    return f"{value:,.0f}"


def kilobytes(value: float) -> str:
    """Write a number of bytes."""
    return f"{value / 1024:.1f}"


def _about(results: Results) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in results.about.items())


def _case(results: Results, case: Case) -> str:
    entries = results.entries[case.name]
    idle = case.name == IDLE
    figures, unit, write = (_IDLE_FIGURES, "KB each", kilobytes) if idle else (_FIGURES, "requests/s", rate)
    header = ["server", unit, "lowest - highest", "ours against it", *figures, "errors"]
    servers = [name for name in SERVERS if name in entries]
    rows = [
        [_title(name), *_cells(entries[name], write, _advantage(results, case.name, name), figures)] for name in servers
    ]
    parts = [f"### {case.title}", table(header, rows)]
    failures = [line for name in servers for line in _failures(name, entries[name])]
    return "\n\n".join([*parts, "\n".join(failures)] if failures else parts)


def _title(server: str) -> str:
    return f"**{SERVERS[server].title}**" if server == OURS else SERVERS[server].title


def _cells(entry: Entry, write: _Write, times: str, figures: Mapping[str, Callable[[Entry], str]]) -> list[str]:
    if not entry.measurements:
        return ["", "", "", *[""] * len(figures), _errors(entry)]
    values = [measurement.value for measurement in entry.measurements]
    spread = f"{write(min(values))} - {write(max(values))}"
    return [
        write(entry.median("value")),
        spread,
        times,
        *(figure(entry) for figure in figures.values()),
        _errors(entry),
    ]


def _advantage(results: Results, case: str, server: str) -> str:
    times = results.advantage(case, server)
    return "" if times is None or server == OURS else _times(times)


def _times(value: float) -> str:
    return f"{value:.2f} x"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _memory(entry: Entry) -> str:
    return f"{entry.median('memory') / _MEGABYTE:.0f}"


def _busy(entry: Entry) -> str:
    return f"{entry.median('server_busy'):.0%} / {entry.median('generator_busy'):.0%}"


_IDLE_FIGURES: Final[Mapping[str, Callable[[Entry], str]]] = {"RSS MB": _memory}
_FIGURES: Final[Mapping[str, Callable[[Entry], str]]] = {
    "p50 ms": lambda entry: _short(entry.median("p50")),
    "p99 ms": lambda entry: _short(entry.median("p99")),
    "peak RSS MB": _memory,
    "CPU µs each": lambda entry: _short(entry.median("cpu_microseconds")),
    "busy: server / wrk": _busy,
}
"""What a table tells beside the case's own figure: the column's header, and how its cells are written."""


def _errors(entry: Entry) -> str:
    counted = [f"{name} {count:,}" for name, count in entry.errors.items()]
    if entry.failures:
        counted.append(f"not measured {len(entry.failures)}")
    return ", ".join(counted) or "0"


def _failures(server: str, entry: Entry) -> Iterator[str]:
    """Return why rounds could not be measured, each reason once."""
    for failure in dict.fromkeys(entry.failures):
        yield f"- {SERVERS[server].title} could not be measured: {failure}"


def _goals(results: Results) -> Iterator[list[str]]:
    for each in reached(results):
        peer = SERVERS[each.peer].title + ("" if each.goal.peer else ", the best")
        yield [CASES[each.goal.case].title, peer, _times(each.goal.times), _times(each.times), _yes(each.met)]
    each_idle = idle_bytes(results)
    if each_idle is not None:
        wanted = f"at most {kilobytes(IDLE_BYTES)} KB"
        yield [CASES[IDLE].title, "", wanted, f"{kilobytes(each_idle)} KB", _yes(each_idle <= IDLE_BYTES)]


def _yes(condition: bool) -> str:
    return "yes" if condition else "no"
