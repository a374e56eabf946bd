"""Runs the whole overload benchmark: parses the command line, measures, and writes tables and charts."""

from __future__ import annotations

import argparse
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from ..common import LoadTestError, charts
from ..common.processes import machine, pinned, require_pinning, run_command, two_cores
from ..common.report import (
    add_choices,
    add_files,
    add_limited,
    add_number,
    as_json,
    load,
    output_of,
    parser,
    say,
    write,
)
from ..common.servers import OURS, left_out, versions
from .applications import COMPUTING_SECONDS
from .play import play_all
from .points import measure_connections, measure_costs, measure_points
from .report import as_markdown, draw, draw_scenario
from .results import Results, from_json
from .scenarios import SCENARIOS
from .seen import SLO_SECONDS
from .serving import CONTENDERS, USUAL, WORKLOADS, Circumstances

_POINTS: Final = "points"
_SCENARIOS: Final = "scenarios"
"""Names of the benchmark's two parts."""
_LOADS: Final = (0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_HIGHEST_LOAD: Final = 20.0
_SECONDS: Final = 5
_WARM_UP: Final = 2
_MOST_SECONDS: Final = 60
_AROUND_SECONDS: Final = 3
"""Seconds that a point takes in addition to its load: server start and stop, and the client timeout."""
_MOST_SHORTENED: Final = 20
_EPILOG: Final = """\
A point is a server, a workload and a load. With the defaults and every server
installed there are {points}, about {each} seconds each: {minutes} minutes.
The {scenarios} scenarios take {scenario_minutes} minutes with one server.

exit codes:
  0  everything was measured, whatever goals were reached
  1  a point or a scenario could not be measured; the tables say why
  2  nothing could be measured
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables and write the files; return the exit code."""
    return run_command("overload", partial(_run, _parse(arguments)))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    flags = parser("overload", "Measure the goodput of our server and others beyond their capacity.", _epilog())
    parts = f"{_POINTS}: steady loads, or {_SCENARIOS}: loads that change in time [both]"
    flags.add_argument("parts", nargs="?", choices=[_POINTS, _SCENARIOS], metavar="PART", help=parts)
    _add_amounts(flags)
    add_choices(flags, "--scenarios", [*SCENARIOS])
    shorten = f"run scenarios this many times as fast, up to {_MOST_SHORTENED}, to check that they work [1]"
    add_limited(flags, "--shorten", int, (1, _MOST_SHORTENED), default=1, metavar="TIMES", help=shorten)
    stored = "print and draw an earlier run's overload.json, and put the files beside it"
    add_files(flags, "overload.md, overload.json, overload-WORKLOAD.svg and scenario-NAME.svg", stored)
    parsed = flags.parse_args(arguments)
    if parsed.seconds + parsed.warm_up > _MOST_SECONDS:
        flags.error(f"--seconds and --warm-up must not exceed {_MOST_SECONDS} together")
    parsed.loads = sorted({*parsed.loads})
    parsed.parts = [parsed.parts] if parsed.parts else [_POINTS, _SCENARIOS]
    parsed.scenario_servers = parsed.servers or [OURS]
    parsed.servers = parsed.servers or USUAL
    return parsed


def _epilog() -> str:
    points = len(WORKLOADS) * (len(USUAL) * len(_LOADS) + 2) + 1
    each = _SECONDS + _WARM_UP + _AROUND_SECONDS
    played = sum(sum(scenario.phases.values()) + _AROUND_SECONDS for scenario in SCENARIOS.values())
    return _EPILOG.format(
        points=points,
        each=each,
        minutes=round(points * each / 60),
        scenarios=len(SCENARIOS),
        scenario_minutes=round(played / 60),
    )


def _add_amounts(parser: argparse.ArgumentParser) -> None:
    add_choices(parser, "--workloads", [*WORKLOADS])
    others = ", ".join(name for name in CONTENDERS if name not in USUAL)
    servers = f"some of: {', '.join(USUAL)} [all of these; of scenarios: {OURS}]; or ours with a limiter: {others}"
    parser.add_argument("--servers", nargs="+", choices=[*CONTENDERS], metavar="NAME", help=servers)
    loads = f"how many times the capacity is sent, up to {_HIGHEST_LOAD:g} [{' '.join(f'{load:g}' for load in _LOADS)}]"
    more = {"nargs": "+", "default": _LOADS, "metavar": "TIMES", "help": loads}
    add_limited(parser, "--loads", float, (0, _HIGHEST_LOAD), **more)
    add_number(parser, "--seconds", _SECONDS, "for how long a load is measured")
    add_number(parser, "--warm-up", _WARM_UP, "for how many seconds it is sent before that")
    add_number(parser, "--seed", 1, "from which the instants of the requests are drawn")


def _run(parsed: argparse.Namespace) -> int:
    results = load(parsed.stored, from_json) if parsed.stored else _measure_all(parsed)
    _show(results, output_of(parsed))
    return int(results.failed)


def _measure_all(parsed: argparse.Namespace) -> Results:
    require_pinning()
    wanted = dict.fromkeys([*parsed.servers, *parsed.scenario_servers])
    missing = left_out({name: CONTENDERS[name] for name in wanted})
    if len(missing) == len(wanted):
        raise LoadTestError("there is nothing to measure; install what is missing, or choose other --servers")
    with tempfile.TemporaryDirectory(prefix="intralb-overload-") as directory:
        around = Circumstances(parsed.seconds, parsed.warm_up, str(parsed.seed), *two_cores(), pathlib.Path(directory))
        results = Results(_about(parsed, around, missing))
        with pinned(around.generator_core):
            _measure(results, parsed, missing, around)
    results.about["load average after"] = f"{os.getloadavg()[0]:.2f}"
    return results


def _measure(results: Results, parsed: argparse.Namespace, missing: Mapping[str, str], around: Circumstances) -> None:
    def keep() -> None:
        # Write the file after each measurement, so that an interrupted run keeps its results.
        write(output_of(parsed), "overload.json", as_json(results))

    if _POINTS in parsed.parts:
        servers = [name for name in parsed.servers if name not in missing]
        measure_connections(results, parsed.workloads, around)
        measure_costs(results, parsed.workloads, around)
        measure_points(results, parsed, servers, around, keep)
    if _SCENARIOS in parsed.parts:
        servers = [name for name in parsed.scenario_servers if name not in missing]
        play_all(results, parsed, servers, around, keep)


def _about(parsed: argparse.Namespace, around: Circumstances, missing: Mapping[str, str]) -> dict[str, str]:
    return {
        **machine(around.server_core, around.generator_core),
        "each point": f"{parsed.seconds} s after {parsed.warm_up} s that do not count; seed {parsed.seed}",
        "scenarios": "in full" if parsed.shorten == 1 else f"{parsed.shorten} times as fast; their goals say little",
        "goodput": f"answers with status 200 within {SLO_SECONDS * 1000:.0f} ms; the client gives up after 2 s",
        "work": f"{COMPUTING_SECONDS * 1000:.0f} ms of Python are counted in time of the processor",
        "versions": versions(),
        "servers that were not installed": ", ".join(missing) or "none",
    }


def _show(results: Results, directory: pathlib.Path) -> None:
    tables = as_markdown(results)
    write(directory, "overload.json", as_json(results))
    write(directory, "overload.md", tables)
    where = charts.write_all(directory, partial(_charts, results))
    print(tables)
    say(f"the tables are in {directory / 'overload.md'}; {where}")


def _charts(results: Results) -> dict[str, str]:
    found = {f"overload-{name}.svg": draw(results, WORKLOADS[name]) for name in results.entries}
    for name, plays in results.plays.items():
        courses = {server: course for server, play in plays.items() if (course := play.course)}
        if courses:
            found[f"scenario-{name}.svg"] = draw_scenario(SCENARIOS[name], courses)
    return found
