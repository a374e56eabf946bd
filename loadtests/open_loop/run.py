"""The whole benchmark, from the command line to the tables and the charts.

Decides what is done before and after the measurements, and what is written. It must not know what one of them is.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

from ..side_by_side import BenchmarkError
from ..side_by_side.processes import pinned
from ..side_by_side.servers import missing, versions
from ..side_by_side.surroundings import end_orderly, machine, pinning, require_pinning, say, two_cores, write
from .applications import COMPUTING_SECONDS
from .arguments import POINTS, SCENARIOS, parse
from .chart import draw
from .contenders import CONTENDERS
from .points import measure_connections, measure_costs, measure_points
from .results import Results, as_json, load
from .scenarios.catalogue import SCENARIOS as KNOWN_SCENARIOS
from .scenarios.chart import draw as draw_scenario
from .scenarios.courses import play_all
from .seen import SLO_SECONDS
from .serving import Circumstances
from .table import as_markdown
from .workloads import WORKLOADS

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write everything; return the exit code."""
    end_orderly()
    parsed = parse(arguments)
    try:
        results = load(parsed.stored) if parsed.stored else _measure_all(parsed)
        _show(results, parsed.output)
    except BenchmarkError as error:
        print(f"overload: error: {error}", file=sys.stderr)
        return 2
    return int(results.failed)


def _measure_all(parsed: argparse.Namespace) -> Results:
    require_pinning()
    wanted = dict.fromkeys([*parsed.servers, *parsed.scenario_servers])
    left_out = {name: package for name in wanted if (package := missing(CONTENDERS[name]))}
    for name, package in left_out.items():
        say(f"{name} is left out: {package} is not installed")
    if len(left_out) == len(wanted):
        raise BenchmarkError("there is nothing to measure; install what is missing, or choose other --servers")
    with tempfile.TemporaryDirectory(prefix="intralb-overload-") as directory:
        around = Circumstances(parsed.seconds, parsed.warm_up, str(parsed.seed), *two_cores(), pathlib.Path(directory))
        results = Results(_about(parsed, around, left_out))
        with pinned(around.generator_core):
            _measure(results, parsed, left_out, around)
    results.about["load average"] += f", after: {os.getloadavg()[0]:.2f}"
    return results


def _measure(results: Results, parsed: argparse.Namespace, left_out: Mapping[str, str], around: Circumstances) -> None:
    def keep() -> None:
        # Each time, so that a run which is ended has not been for nothing.
        write(parsed.output, "overload.json", as_json(results))

    if POINTS in parsed.parts:
        servers = [name for name in parsed.servers if name not in left_out]
        measure_connections(results, parsed.workloads, around)
        measure_costs(results, parsed.workloads, around)
        measure_points(results, parsed.workloads, parsed.loads, servers, around, keep)
    if SCENARIOS in parsed.parts:
        servers = [name for name in parsed.scenario_servers if name not in left_out]
        play_all(results, parsed.scenarios, servers, parsed.shorten, around, keep)


def _about(parsed: argparse.Namespace, around: Circumstances, left_out: Mapping[str, str]) -> dict[str, str]:
    installed = [f"Python {platform.python_version()}", *(f"{name} {version}" for name, version in versions().items())]
    return {
        "measured": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine(),
        "load average": f"before: {os.getloadavg()[0]:.2f}",
        "pinned": pinning(around.server_core, around.generator_core),
        "each point": f"{parsed.seconds} s after {parsed.warm_up} s that do not count; seed {parsed.seed}",
        "scenarios": "in full" if parsed.shorten == 1 else f"{parsed.shorten} times as fast; their goals say little",
        "goodput": f"answers with status 200 within {SLO_SECONDS * 1000:.0f} ms; the client gives up after 2 s",
        "work": f"{COMPUTING_SECONDS * 1000:.0f} ms of Python are counted in time of the processor",
        "versions": ", ".join(installed),
        "not installed, so left out": ", ".join(left_out) or "nothing",
    }


def _show(results: Results, directory: pathlib.Path) -> None:
    tables = as_markdown(results)
    write(directory, "overload.json", as_json(results))
    write(directory, "overload.md", tables)
    for name in results.entries:
        write(directory, f"overload-{name}.svg", draw(results, WORKLOADS[name]))
    for name, plays in results.plays.items():
        courses = {server: course for server, play in plays.items() if (course := play.course)}
        if courses:
            write(directory, f"scenario-{name}.svg", draw_scenario(KNOWN_SCENARIOS[name], courses))
    print(tables)
    say(f"the tables are in {directory / 'overload.md'}, the charts beside it")
