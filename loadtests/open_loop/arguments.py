"""What the overload benchmark can be told on the command line.

Decides the flags and their defaults. It must not know what comes of them.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import Final

from ..side_by_side.arguments import add_choices, add_number
from ..side_by_side.servers import OURS
from .contenders import CONTENDERS, USUAL
from .scenarios.catalogue import SCENARIOS as KNOWN_SCENARIOS
from .workloads import WORKLOADS

__all__ = ["POINTS", "SCENARIOS", "parse"]

POINTS: Final = "points"
SCENARIOS: Final = "scenarios"
"""The two parts of the benchmark."""
_REPORTS: Final = pathlib.Path(__file__).parents[1] / "reports"
_LOADS: Final = (0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_HIGHEST_LOAD: Final = 20.0
_SECONDS: Final = 5
_WARM_UP: Final = 2
_MOST_SECONDS: Final = 60
_AROUND_SECONDS: Final = 3
"""What a point needs beside its time: the server's start and end, and the client's patience."""
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


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments; ends the program with exit code 2 when they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.overload",
        description="Measure what our server and the others still do when more arrives than they can do.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = f"{POINTS}: steady loads, or {SCENARIOS}: what changes in time [both]"
    parser.add_argument("parts", nargs="?", choices=[POINTS, SCENARIOS], metavar="PART", help=parts)
    _add_amounts(parser)
    _add_scenarios(parser)
    _add_files(parser)
    parsed = parser.parse_args(arguments)
    if parsed.seconds + parsed.warm_up > _MOST_SECONDS:
        parser.error(f"--seconds and --warm-up must not exceed {_MOST_SECONDS} together")
    parsed.loads = sorted({*parsed.loads})
    parsed.parts = [parsed.parts] if parsed.parts else [POINTS, SCENARIOS]
    parsed.scenario_servers = parsed.servers or [OURS]
    parsed.servers = parsed.servers or USUAL
    parsed.output = parsed.output or (parsed.stored.parent if parsed.stored else _REPORTS)
    return parsed


def _epilog() -> str:
    points = len(WORKLOADS) * (len(USUAL) * len(_LOADS) + 2) + 1
    each = _SECONDS + _WARM_UP + _AROUND_SECONDS
    played = sum(sum(scenario.phases.values()) + _AROUND_SECONDS for scenario in KNOWN_SCENARIOS.values())
    return _EPILOG.format(
        points=points,
        each=each,
        minutes=round(points * each / 60),
        scenarios=len(KNOWN_SCENARIOS),
        scenario_minutes=round(played / 60),
    )


def _add_amounts(parser: argparse.ArgumentParser) -> None:
    add_choices(parser, "--workloads", [*WORKLOADS])
    others = ", ".join(name for name in CONTENDERS if name not in USUAL)
    servers = f"some of: {', '.join(USUAL)} [all of these; of scenarios: {OURS}]; or ours with a limiter: {others}"
    parser.add_argument("--servers", nargs="+", choices=[*CONTENDERS], metavar="NAME", help=servers)
    loads = f"how many times the capacity is sent, up to {_HIGHEST_LOAD:g} [{' '.join(f'{load:g}' for load in _LOADS)}]"
    parser.add_argument("--loads", nargs="+", type=_load, default=_LOADS, metavar="TIMES", help=loads)
    add_number(parser, "--seconds", _SECONDS, "for how long a load is measured")
    add_number(parser, "--warm-up", _WARM_UP, "for how many seconds it is sent before that")
    add_number(parser, "--seed", 1, "from which the instants of the requests are drawn")


def _add_scenarios(parser: argparse.ArgumentParser) -> None:
    add_choices(parser, "--scenarios", [*KNOWN_SCENARIOS])
    shorten = f"play scenarios so many times as fast, up to {_MOST_SHORTENED}, to see that they run [1]"
    parser.add_argument("--shorten", type=_shortening, default=1, metavar="TIMES", help=shorten)


def _add_files(parser: argparse.ArgumentParser) -> None:
    where = "for overload.md, overload.json, overload-WORKLOAD.svg and scenario-NAME.svg [loadtests/reports]"
    parser.add_argument("--output", metavar="DIRECTORY", type=pathlib.Path, help=where)
    stored = "measure nothing: print and draw an earlier run's overload.json, and put the files beside it"
    parser.add_argument("--from", dest="stored", metavar="FILE", type=pathlib.Path, help=stored)


def _load(text: str) -> float:
    load = float(text)
    if not 0 < load <= _HIGHEST_LOAD:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; it must be above 0 and at most {_HIGHEST_LOAD:g}")
    return load


def _shortening(text: str) -> int:
    times = int(text)
    if not 1 <= times <= _MOST_SHORTENED:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; it must be from 1 to {_MOST_SHORTENED}")
    return times
