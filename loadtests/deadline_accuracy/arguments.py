"""What the measurement can be told on the command line.

Decides the flags and their defaults. It must not know what comes of them.
"""

from __future__ import annotations

import argparse
import math
import pathlib
from collections.abc import Sequence
from typing import Final

from .applications import LONG_SECONDS
from .kinds import KINDS

__all__ = ["parse"]

_REPORTS: Final = pathlib.Path(__file__).parents[1] / "reports"
_DEADLINES: Final = (0.1, 1.0, 5.0)
_LONGEST: Final = LONG_SECONDS / 5
_EPILOG: Final = """\
exit codes:
  0  every goal is reached
  1  a goal is missed, or something ended otherwise or could not be measured;
     the table says what
  2  nothing could be measured
"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments; ends the program with exit code 2 when they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.deadlines",
        description="Measure by how much deadlines are missed, for handlers that wait, compute, or do not end.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = f"some of: {', '.join(KINDS)} [all]"
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS], default=[*KINDS], metavar="NAME", help=kinds)
    _add_amounts(parser)
    where = "for deadlines.md and deadlines.json [loadtests/reports]"
    parser.add_argument("--output", metavar="DIRECTORY", type=pathlib.Path, default=_REPORTS, help=where)
    return parser.parse_args(arguments)


def _add_amounts(parser: argparse.ArgumentParser) -> None:
    deadlines = f"the deadlines, up to {_LONGEST:g} [{' '.join(f'{each:g}' for each in _DEADLINES)}]"
    parser.add_argument("--deadlines", nargs="+", type=_deadline, default=_DEADLINES, metavar="SECONDS", help=deadlines)
    repetitions = "requests for each kind and deadline [as many as come to about 3 minutes, fewer of longer ones]"
    parser.add_argument("--repetitions", type=_positive, metavar="NUMBER", help=repetitions)
    at_once = "requests of a kind that wait at the same time; those that compute are made one by one [20]"
    parser.add_argument("--at-once", type=_positive, default=20, metavar="NUMBER", help=at_once)


def _deadline(text: str) -> float:
    seconds = float(text)
    if not (math.isfinite(seconds) and 0 < seconds <= _LONGEST):
        raise argparse.ArgumentTypeError(f"{text} is not allowed; it must be above 0 and not above {_LONGEST:g}")
    return seconds


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; it must be 1 or more")
    return number
