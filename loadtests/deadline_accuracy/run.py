"""All kinds, one after the other, from the first to the table.

Decides their order, what is left out, and the exit code. It must not know what one measurement is.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import pathlib
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Final

from ..side_by_side import BenchmarkError
from ..side_by_side.processes import pinned
from ..side_by_side.surroundings import end_orderly, machine, require_pinning, say, write
from .arguments import parse
from .kinds import KINDS, missing
from .measure import Plan, measure
from .results import Results, as_json
from .table import as_markdown

__all__ = ["main"]

_PACKAGES: Final = ("gevent", "greenlet", "httptools", "intralb-gevent")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write everything; return the exit code."""
    end_orderly()
    parsed = parse(arguments)
    try:
        results = _measure_all(parsed)
        _show(results, parsed.output)
    except BenchmarkError as error:
        print(f"deadlines: error: {error}", file=sys.stderr)
        return 2
    return int(results.missed) if results.measured else 2


def _measure_all(parsed: argparse.Namespace) -> Results:
    require_pinning()
    left_out = {name: what for name in parsed.kinds if (what := missing(KINDS[name]))}
    for name, what in left_out.items():
        say(f"{name} is left out: there is no {what}")
    kinds = [name for name in KINDS if name in parsed.kinds and name not in left_out]
    if not kinds:
        raise BenchmarkError("there is nothing to measure; install or start what is missing, or choose other --kinds")
    plan = _plan(parsed)
    results = Results(_about(kinds, plan, left_out))
    with tempfile.TemporaryDirectory(prefix="intralb-deadlines-") as name, pinned(plan.client_core):
        for kind in kinds:
            _measure_one(results, kind, plan, pathlib.Path(name))
    results.about["load average"] += f", after: {os.getloadavg()[0]:.2f}"
    return results


def _plan(parsed: argparse.Namespace) -> Plan:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        say("warning: there is only one core; server and clients share it, and the figures are of both")
    deadlines = sorted(set(parsed.deadlines))
    return Plan(deadlines, parsed.repetitions, parsed.at_once, cores[0], cores[min(1, len(cores) - 1)])


def _about(kinds: Sequence[str], plan: Plan, left_out: Mapping[str, str]) -> dict[str, str]:
    shared = plan.server_core == plan.client_core
    return {
        "measured": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine(),
        "load average": f"before: {os.getloadavg()[0]:.2f}",
        "pinned": "server and clients to the same core" if shared else "server to one core, clients to another",
        "at once": f"{plan.at_once} of those that wait, 1 of those that compute",
        "versions": ", ".join(_versions(kinds)),
        "left out": "; ".join(f"{name} (no {what})" for name, what in left_out.items()) or "nothing",
    }


def _versions(kinds: Sequence[str]) -> list[str]:
    packages = [*_PACKAGES, *(KINDS[name].package for name in kinds if KINDS[name].package)]
    found = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    return [f"Python {platform.python_version()}", *found]


def _measure_one(results: Results, name: str, plan: Plan, directory: pathlib.Path) -> None:
    kind = KINDS[name]
    say(name)
    try:
        for deadline, seen in measure(kind, plan, directory):
            results.entry(name, deadline).add(kind, deadline, seen)
    except (BenchmarkError, OSError) as error:
        say(f"  failed: {error}")
        results.failures[name] = str(error)


def _show(results: Results, directory: pathlib.Path) -> None:
    tables = as_markdown(results)
    write(directory, "deadlines.json", as_json(results))
    write(directory, "deadlines.md", tables)
    print(tables)
    say(f"the tables are in {directory / 'deadlines.md'}")
