"""All measurements, from the first to the tables and the chart.

Decides the order: the servers take turns within a round, so that what changes on the machine meanwhile falls on all of
them. It must not know what one measurement is.
"""

from __future__ import annotations

import argparse
import itertools
import os
import pathlib
import platform
import sys
import tempfile
import time
from collections.abc import Collection, Container, Iterator, Sequence

from . import BenchmarkError, wrk
from .arguments import parse
from .cases import CASES, IDLE
from .chart import draw
from .idle import allow_connections
from .measure import Plan, measure
from .processes import pinned
from .results import Results, as_json, load
from .servers import SERVERS, missing, missing_package, versions
from .surroundings import end_orderly, machine, pinning, require_pinning, say, two_cores, write
from .table import as_markdown

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write everything; return the exit code."""
    end_orderly()
    parsed = parse(arguments)
    try:
        results = load(parsed.stored) if parsed.stored else _measure_all(parsed)
        _show(results, parsed.output)
    except BenchmarkError as error:
        print(f"peers: error: {error}", file=sys.stderr)
        return 2
    return int(results.failed)


def _measure_all(parsed: argparse.Namespace) -> Results:
    _require_tools(parsed)
    left_out = _left_out(parsed)
    turns = list(_turns(parsed, left_out))
    if not turns:
        raise BenchmarkError("there is nothing to measure; install what is missing, or choose other --cases, --servers")
    plan = _plan(parsed)
    results = Results(_about(parsed, plan, left_out))
    with tempfile.TemporaryDirectory(prefix="intralb-peers-") as name, pinned(plan.generator_core):
        for case, number, server in turns:
            say(f"{case}, round {number} of {parsed.rounds}: {server}")
            _measure_one(results, server, case, plan, pathlib.Path(name))
            # Each time, so that a run which is ended has not been for nothing.
            write(parsed.output, "peers.json", as_json(results))
    return results


def _left_out(parsed: argparse.Namespace) -> dict[str, str]:
    """Return the cases and servers that cannot be measured, each with what is not installed; say it, too."""
    needs = {name: missing(SERVERS[name]) for name in parsed.servers}
    needs |= {name: missing_package(CASES[name].package) for name in parsed.cases}
    left_out = {name: package for name, package in needs.items() if package}
    for name, package in left_out.items():
        say(f"{name} is left out: {package} is not installed")
    return left_out


def _turns(parsed: argparse.Namespace, left_out: Container[str]) -> Iterator[tuple[str, int, str]]:
    """Return every measurement in its order: the case, the round, and the server whose turn it is."""
    for case, number, server in itertools.product(parsed.cases, range(1, parsed.rounds + 1), parsed.servers):
        if case not in left_out and server not in left_out and case not in SERVERS[server].lacks:
            yield case, number, server


def _require_tools(parsed: argparse.Namespace) -> None:
    require_pinning()
    if not wrk.installed() and {*parsed.cases} != {IDLE}:
        raise BenchmarkError("wrk is not installed; install it (apt install wrk), or measure only --cases idle")
    if IDLE in parsed.cases:
        allow_connections(parsed.idle_connections)


def _plan(parsed: argparse.Namespace) -> Plan:
    return Plan(parsed.seconds, parsed.connections, parsed.idle_connections, *two_cores())


def _about(parsed: argparse.Namespace, plan: Plan, left_out: Collection[str]) -> dict[str, str]:
    amounts = f"{parsed.rounds} of {parsed.seconds} s, {parsed.connections} connections"
    installed = [f"Python {platform.python_version()}", *(f"{name} {version}" for name, version in versions().items())]
    return {
        "measured": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine(),
        "load average before": f"{os.getloadavg()[0]:.2f}",
        "pinned": pinning(plan.server_core, plan.generator_core),
        "rounds": f"{amounts}; idle: {parsed.idle_connections} connections",
        "versions": ", ".join(installed),
        "not installed, so left out": ", ".join(left_out) or "nothing",
    }


def _measure_one(results: Results, server: str, case: str, plan: Plan, directory: pathlib.Path) -> None:
    entry = results.entry(case, server)
    try:
        entry.measurements.append(measure(SERVERS[server], CASES[case], plan, directory))
    except (BenchmarkError, OSError) as error:
        say(f"  failed: {error}")
        entry.failures.append(str(error))


def _show(results: Results, directory: pathlib.Path) -> None:
    tables = as_markdown(results)
    write(directory, "peers.md", tables)
    write(directory, "peers.svg", draw(results))
    print(tables)
    say(f"the tables are in {directory / 'peers.md'}, the chart is {directory / 'peers.svg'}")
