"""What the watched overload can be told on the command line.

Decides the flags, their defaults, and what contradicts itself. It must not know what comes of them.
"""

from __future__ import annotations

import argparse
import os
import pathlib
from collections.abc import Sequence
from typing import Final

from ..arguments import positive, split_flags
from .load import CAPACITY, PERIOD_SECONDS, QUIET_LOAD, most_users, quiet_users
from .server import WORKLOADS

__all__ = ["parse"]

_REPORTS: Final = pathlib.Path(__file__).parents[1] / "reports"
_MOST_CAPACITY: Final = 500
"""Beyond it locust would need more users than one process of it can be."""
_SHORTEST_SECONDS: Final = 5
_EPILOG: Final = f"""\
A user asks every {PERIOD_SECONDS:g} s, and there are as many as come to {QUIET_LOAD:g} times the capacity; in the spike
ten times as many. What comes after -- goes to the server, for example: -- --queue-size=20

exit codes:
  0  every check has passed
  1  some check has failed; the report and the last lines say which
  2  the run could not be made
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the arguments with everything filled in; ends the program with exit code 2 when they are wrong."""
    parser = _parser()
    own, server_flags = split_flags(arguments)
    parsed = parser.parse_args(own)
    parsed.server_flags = server_flags
    if parsed.seconds < _SHORTEST_SECONDS:
        parser.error(f"--seconds: {parsed.seconds} is not allowed; a spike with a before and an after needs 5 or more")
    if parsed.capacity > _MOST_CAPACITY:
        parser.error(f"--capacity: {parsed.capacity} is not allowed; it must be at most {_MOST_CAPACITY}")
    if parsed.pin and not _can_pin():
        parser.error("--pin is not possible here; it needs Linux and two cores")
    _fill_in(parsed)
    return parsed


def _fill_in(parsed: argparse.Namespace) -> None:
    parsed.most = most_users(parsed.capacity)
    parsed.quiet = quiet_users(parsed.most)
    parsed.report = parsed.report or _REPORTS / f"overload-watched-{parsed.workload}.html"
    if parsed.pin is None:
        parsed.pin = _can_pin()


def _can_pin() -> bool:
    return hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.overload_locust",
        usage="python -m loadtests.overload_locust [WORKLOAD] [FLAGS] [-- FLAGS OF THE SERVER]",
        description="Let ten times as many users come as our server can answer, and write a report of both sides.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    told = ", ".join(f"{name} ({workload.title})" for name, workload in WORKLOADS.items())
    parser.add_argument(
        "workload", choices=[*WORKLOADS], nargs="?", default="db", metavar="WORKLOAD", help=f"{told} [db]"
    )
    _add_flags(parser)
    return parser


def _add_flags(parser: argparse.ArgumentParser) -> None:
    capacity = f"requests per second that the server can do, from which follows how many users there are [{CAPACITY}]"
    parser.add_argument("--seconds", metavar="NUMBER", type=positive, default=30, help="how long they come [30]")
    parser.add_argument("--capacity", metavar="NUMBER", type=positive, default=CAPACITY, help=capacity)
    parser.add_argument(
        "--pin",
        action=argparse.BooleanOptionalAction,
        help="whether server and locust have a core each [where there are two cores]",
    )
    report = "[loadtests/reports/overload-watched-WORKLOAD.html]"
    parser.add_argument("--report", metavar="FILE", type=pathlib.Path, help=report)
