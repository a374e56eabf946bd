"""What the benchmark can be told on the command line.

Decides the flags and their defaults. It must not know what comes of them.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import Final

from .cases import CASES
from .servers import SERVERS

__all__ = ["add_choices", "add_number", "parse"]

_REPORTS: Final = pathlib.Path(__file__).parents[1] / "reports"
_FILES: Final = "peers.json, peers.md and peers.svg"
_EPILOG: Final = """\
exit codes:
  0  everything was measured
  1  something could not be measured; the table says what and why
  2  nothing could be measured
"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments; ends the program with exit code 2 when they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.peers",
        description="Measure our server beside the other servers that are installed, and print tables.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_amounts(parser)
    _add_files(parser)
    parsed = parser.parse_args(arguments)
    parsed.output = parsed.output or (parsed.stored.parent if parsed.stored else _REPORTS)
    return parsed


def _add_amounts(parser: argparse.ArgumentParser) -> None:
    add_choices(parser, "--cases", [*CASES])
    add_choices(parser, "--servers", [*SERVERS])
    add_number(parser, "--rounds", 3, "how often each server is measured in each case, in turn with the others")
    add_number(parser, "--seconds", 3, "how long a measurement lasts")
    add_number(parser, "--connections", 64, "how many connections wrk has")
    add_number(parser, "--idle-connections", 8000, "how many the idle case has")


def _add_files(parser: argparse.ArgumentParser) -> None:
    where = f"for {_FILES} [loadtests/reports]"
    parser.add_argument("--output", metavar="DIRECTORY", type=pathlib.Path, help=where)
    stored = (
        "measure nothing: print the tables and draw the chart of an earlier run's peers.json, and put them beside it"
    )
    parser.add_argument("--from", dest="stored", metavar="FILE", type=pathlib.Path, help=stored)


def add_choices(parser: argparse.ArgumentParser, flag: str, choices: list[str]) -> None:
    """Add a flag that takes some of the choices, and all of them by default."""
    help = f"some of: {', '.join(choices)} [all]"
    parser.add_argument(flag, nargs="+", choices=choices, default=choices, metavar="NAME", help=help)


def add_number(parser: argparse.ArgumentParser, flag: str, default: int, help: str) -> None:
    """Add a flag that takes a whole number above 0."""
    parser.add_argument(flag, metavar="NUMBER", type=_positive, default=default, help=f"{help} [{default}]")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; it must be 1 or more")
    return number
