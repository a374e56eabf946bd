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
import signal
import sys
import tempfile
import time
from collections.abc import Collection, Container, Iterator, Sequence
from typing import NoReturn

from . import BenchmarkError, wrk
from .arguments import parse
from .cases import CASES, IDLE
from .chart import draw
from .idle import allow_connections
from .measure import Plan, measure
from .processes import ENDING, pinned
from .results import Results, as_json, load
from .servers import SERVERS, missing, missing_package, versions
from .table import as_markdown

__all__ = ["main"]

_QUIET_LOAD = 0.5
"""The load average above which somebody else is at work on the machine."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write everything; return the exit code."""
    # Ended by a signal, it still has to stop what it has started.
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    parsed = parse(arguments)
    try:
        results = load(parsed.stored) if parsed.stored else _measure_all(parsed)
        _show(results, parsed.output)
    except BenchmarkError as error:
        print(f"peers: error: {error}", file=sys.stderr)
        return 2
    return int(results.failed)


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _say(text: str) -> None:
    # Not on the standard output: that one has the tables.
    print(text, file=sys.stderr, flush=True)


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
            _say(f"{case}, round {number} of {parsed.rounds}: {server}")
            _measure_one(results, server, case, plan, pathlib.Path(name))
            # Each time, so that a run which is ended has not been for nothing.
            _write(parsed.output, "peers.json", as_json(results))
    return results


def _left_out(parsed: argparse.Namespace) -> dict[str, str]:
    """Return the cases and servers that cannot be measured, each with what is not installed; say it, too."""
    needs = {name: missing(SERVERS[name]) for name in parsed.servers}
    needs |= {name: missing_package(CASES[name].package) for name in parsed.cases}
    left_out = {name: package for name, package in needs.items() if package}
    for name, package in left_out.items():
        _say(f"{name} is left out: {package} is not installed")
    return left_out


def _turns(parsed: argparse.Namespace, left_out: Container[str]) -> Iterator[tuple[str, int, str]]:
    """Return every measurement in its order: the case, the round, and the server whose turn it is."""
    for case, number, server in itertools.product(parsed.cases, range(1, parsed.rounds + 1), parsed.servers):
        if case not in left_out and server not in left_out and case not in SERVERS[server].lacks:
            yield case, number, server


def _require_tools(parsed: argparse.Namespace) -> None:
    if not hasattr(os, "sched_setaffinity"):
        raise BenchmarkError(f"this needs /proc and processes pinned to cores, which {platform.system()} has not")
    if not wrk.installed() and {*parsed.cases} != {IDLE}:
        raise BenchmarkError("wrk is not installed; install it (apt install wrk), or measure only --cases idle")
    if IDLE in parsed.cases:
        allow_connections(parsed.idle_connections)


def _plan(parsed: argparse.Namespace) -> Plan:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        _say("warning: there is only one core; server and generator share it, and the figures are of both")
    if os.getloadavg()[0] > _QUIET_LOAD:
        _say(f"warning: the load average is {os.getloadavg()[0]:.2f}; what else runs here spoils the figures")
    return Plan(parsed.seconds, parsed.connections, parsed.idle_connections, cores[0], cores[min(1, len(cores) - 1)])


def _about(parsed: argparse.Namespace, plan: Plan, left_out: Collection[str]) -> dict[str, str]:
    shared = plan.server_core == plan.generator_core
    amounts = f"{parsed.rounds} of {parsed.seconds} s, {parsed.connections} connections"
    installed = [f"Python {platform.python_version()}", *(f"{name} {version}" for name, version in versions().items())]
    return {
        "measured": time.strftime("%Y-%m-%d %H:%M"),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "load average before": f"{os.getloadavg()[0]:.2f}",
        "pinned": "server and generator to the same core" if shared else "server to one core, generator to another",
        "rounds": f"{amounts}; idle: {parsed.idle_connections} connections",
        "versions": ", ".join(installed),
        "not installed, so left out": ", ".join(left_out) or "nothing",
    }


def _processor() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _measure_one(results: Results, server: str, case: str, plan: Plan, directory: pathlib.Path) -> None:
    entry = results.entry(case, server)
    try:
        entry.measurements.append(measure(SERVERS[server], CASES[case], plan, directory))
    except (BenchmarkError, OSError) as error:
        _say(f"  failed: {error}")
        entry.failures.append(str(error))


def _show(results: Results, directory: pathlib.Path) -> None:
    tables = as_markdown(results)
    _write(directory, "peers.md", tables)
    _write(directory, "peers.svg", draw(results))
    print(tables)
    _say(f"the tables are in {directory / 'peers.md'}, the chart is {directory / 'peers.svg'}")


def _write(directory: pathlib.Path, name: str, text: str) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchmarkError(f"cannot write to {str(directory)!r}: {error.strerror}; choose another --output") from None
