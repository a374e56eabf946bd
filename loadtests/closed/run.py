"""Runs each crowd against each server in turn, checks the goals, and writes the tables."""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from ..common import LoadTestError
from ..common.processes import machine, pinned, require_pinning, run_command, two_cores
from ..common.report import about_lines, add_choices, add_number, add_output, parser, say, table, write
from ..common.servers import OURS, SERVERS, Server, left_out, serving, titled, versions
from .clients import CROWDS, FLOODS, SHEDDABLE, Crowd, Flooded, Seen, play, run

PEER: Final = "gunicorn"
"""The server against which the goals compare our server."""
BEARABLE_SECONDS: Final = 2.0
"""The default `max_wait_seconds` of our server. The server may reject requests that would wait longer."""
_AS_MANY: Final = 0.98
"""Minimum ratio between our responses per second and the peer's; a smaller difference can be chance."""
_AS_LONG: Final = 1.5
_LEAST_SERVED: Final = 0.5
_AGAIN_SECONDS: Final = 5.0
"""Seconds after a flood within which the service must be back to normal."""


@dataclass
class Results:
    """All results, and the conditions of the measurement."""

    about: dict[str, str] = field(default_factory=dict)
    seen: dict[Crowd, dict[str, Seen]] = field(default_factory=dict)
    """Results by crowd, then by server name."""
    floods: dict[str, Flooded] = field(default_factory=dict)
    """Results by flood description."""
    failures: list[str] = field(default_factory=list)

    def misses(self) -> Iterator[str]:
        """Yield a sentence for each goal that our server has missed."""
        for crowd, by_server in self.seen.items():
            ours, peer = by_server.get(OURS), by_server.get(PEER)
            if ours is not None and crowd.longest_wait < BEARABLE_SECONDS:
                yield from _misses(crowd, ours, peer)
        for flood, flooded in self.floods.items():
            yield from _flood_misses(flood, flooded)


def _misses(crowd: Crowd, ours: Seen, peer: Seen | None) -> Iterator[str]:
    name = f"{crowd.kind} {crowd.name}"
    if ours.refused:
        yield f"{name}: {ours.refused} were not answered 200: {dict(ours.answers)}"
    if ours.served and min(ours.served) < _LEAST_SERVED * max(ours.served):
        yield f"{name}: one client had {min(ours.served)} answers, another {max(ours.served)}"
    if peer is None or peer.refused:
        return
    if ours.per_second < _AS_MANY * peer.per_second:
        yield f"{name}: {ours.per_second:.1f} answers per second, {PEER} {peer.per_second:.1f}"
    longest = ours.percentile(100), peer.percentile(100)
    if longest[0] > _AS_LONG * longest[1]:
        yield f"{name}: the longest wait is {longest[0]:.2f} s, {PEER}'s {longest[1]:.2f}"


def _flood_misses(flood: str, flooded: Flooded) -> Iterator[str]:
    before, during, _ = flooded.refused
    if before:
        yield f"flood, {flood}: {before} clients were refused before it"
    if flood == SHEDDABLE and during:
        yield f"flood, {flood}: {during} clients were refused during it"
    if flooded.refused_until > _AGAIN_SECONDS:
        yield f"flood, {flood}: clients were refused until {flooded.refused_until:.1f} s after its end"


_HEADER = ("clients", "server", "answers/s", "p50 ms", "p99 ms", "longest ms", "least - most served", "others than 200")
_FLOOD_HEADER = ("the flood is", "answers/s before / during / after", "refused", "the last of these after its end")
_PAGES = "pages"
_TITLES = {
    "cpu": "Requests that compute",
    "db": "Requests that wait with one of ten connections",
    _PAGES: "Browsers that load a page",
}


def as_markdown(results: Results) -> str:
    """Format all results: the conditions, a table for each kind of crowd, and the missed goals."""
    parts = [about_lines(results.about)]
    for kind, title in _TITLES.items():
        crowds = [crowd for crowd in results.seen if (_PAGES if crowd.assets else crowd.kind) == kind]
        if crowds:
            rows = [_row(crowd, name, seen) for crowd in crowds for name, seen in results.seen[crowd].items()]
            parts += [f"### {title}", table(_HEADER, rows)]
    if results.floods:
        rows = [_flood_row(flood, flooded) for flood, flooded in results.floods.items()]
        parts += ["### A flood beside 20 clients", table(_FLOOD_HEADER, rows)]
    misses = [*results.failures, *results.misses()]
    parts.append("\n".join(f"- not reached: {miss}" for miss in misses) or "All goals are reached.")
    return "\n\n".join(parts) + "\n"


def _flood_row(flood: str, flooded: Flooded) -> list[str]:
    rates = " / ".join(f"{rate:.1f}" for rate in flooded.rates)
    return [flood, rates, " / ".join(f"{count:,}" for count in flooded.refused), f"{flooded.refused_until:.1f} s"]


def _row(crowd: Crowd, name: str, seen: Seen) -> list[str]:
    waits = [f"{1000 * seen.percentile(percent):,.0f}" for percent in (50, 99, 100)]
    others = ", ".join(f"{answer} {count:,}" for answer, count in sorted(seen.answers.items()) if answer != "200")
    served = f"{min(seen.served)} - {max(seen.served)}" if seen.served else ""
    return [crowd.name, titled(SERVERS[name]), f"{seen.per_second:,.1f}", *waits, served, others or "0"]


_APPLICATION: Final = "loadtests.overload.applications:application"
_FLOOD: Final = "flood"
_SERVERS: Final = ("intralb", "gunicorn", "granian", "waitress")
_WARM_UP_SECONDS: Final = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write everything; return 0, 1 if a goal was missed, or 2 if the measurement failed."""
    return run_command("closed", partial(_run, _parse(arguments)))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    about = "Compare our server and others under clients that wait for each response, and print tables."
    flags = parser("closed", about)
    add_choices(flags, "--kinds", [*_TITLES, _FLOOD])
    add_choices(flags, "--servers", [*_SERVERS])
    add_number(flags, "--seconds", 5, "how long the clients of a crowd send requests")
    add_number(flags, "--most-clients", 64, "leave out crowds that are larger")
    add_output(flags, "closed.md")
    return flags.parse_args(arguments)


def _run(parsed: argparse.Namespace) -> int:
    results = _measure_all(parsed)
    tables = as_markdown(results)
    write(parsed.output, "closed.md", tables)
    print(tables)
    return int(bool(results.failures or [*results.misses()]))


def _measure_all(parsed: argparse.Namespace) -> Results:
    require_pinning()
    missing = left_out({name: SERVERS[name] for name in parsed.servers})
    servers = [SERVERS[name] for name in parsed.servers if name not in missing]
    wanted = [crowd for crowd in CROWDS if (_PAGES if crowd.assets else crowd.kind) in parsed.kinds]
    crowds = [crowd for crowd in wanted if crowd.clients <= parsed.most_clients]
    floods = _FLOOD in parsed.kinds and SERVERS[OURS] in servers
    if not servers or not (crowds or floods):
        raise LoadTestError("there is nothing to measure; install what is missing, or choose other --servers")
    server_core, client_core = two_cores()
    results = Results(_about(parsed, server_core, client_core))
    with tempfile.TemporaryDirectory(prefix="intralb-closed-") as name, pinned(client_core):
        serve = partial(serving, application=_APPLICATION, core=server_core, directory=pathlib.Path(name))
        for crowd in crowds:
            say(f"{crowd.kind} {crowd.name}")
            results.seen[crowd] = {}
            for server in servers:
                _measure_one(results, crowd, server, parsed.seconds, serve)
        for flood, flags in FLOODS.items() if floods else ():
            say(f"flood, {flood}")
            with serve(SERVERS[OURS], flags=flags) as (_, port):
                results.floods[flood] = play(port)
    return results


def _measure_one(results: Results, crowd: Crowd, server: Server, seconds: float, serve: partial[Any]) -> None:
    try:
        with serve(server) as (_, port):
            # Warm up: during the first requests, a server might still import modules or add workers.
            run(Crowd(crowd.kind, crowd.milliseconds, 2), port, _WARM_UP_SECONDS)
            results.seen[crowd][server.name] = run(crowd, port, seconds)
    except LoadTestError as error:
        say(f"  {server.title} failed: {error}")
        results.failures.append(f"{crowd.name} of {server.title} could not be measured: {error}")


def _about(parsed: argparse.Namespace, server_core: int, client_core: int) -> dict[str, str]:
    return {
        **machine(server_core, client_core),
        "each": f"{parsed.seconds} s after {_WARM_UP_SECONDS:g} s with two clients; browsers until all is loaded",
        "versions": versions(),
    }
