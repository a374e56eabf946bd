"""What a load test can be told on the command line.

Decides the flags, their defaults, and what contradicts itself. It must not know what comes of them.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import Final

from .shapes import DEFAULT_USERS, SHAPES

__all__ = ["SCENARIOS", "parse", "positive", "split_flags"]

SCENARIOS: Final = {"browse": "Browse", "write": "Write", "slow-mix": "SlowMix"}
"""The scenarios, and the users of locust that each consists of."""
_REPORTS: Final = pathlib.Path(__file__).parent / "reports"
_EPILOG: Final = """\
What comes after -- goes to the demo server, for example: -- --queue-size=2 --max-workers=2

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
    if bool(parsed.host) != bool(parsed.admin):
        parser.error("--host and --admin go together: the report needs both sides")
    if parsed.host and parsed.server_flags:
        parser.error("flags after -- are for a server that this run starts, not for one at --host")
    _fill_in(parsed)
    return parsed


def _fill_in(parsed: argparse.Namespace) -> None:
    parsed.users = parsed.users or DEFAULT_USERS[parsed.shape]
    parsed.report = parsed.report or _REPORTS / f"{parsed.scenario}-{parsed.shape}.html"
    if parsed.allow_shed is None:
        parsed.allow_shed = parsed.shape == "spike"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.run",
        usage="python -m loadtests.run [SCENARIO] [FLAGS] [-- FLAGS OF THE DEMO SERVER]",
        description="Test the sample application under load, and write a report.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_load(parser)
    parser.add_argument("--report", metavar="FILE", type=pathlib.Path, help="[loadtests/reports/SCENARIO-SHAPE.html]")
    parser.add_argument("--host", metavar="URL", help="test a demo that runs on this machine already; needs --admin")
    parser.add_argument("--admin", metavar="URL", help="where that one tells its own figures (its --admin-bind)")
    return parser


def _add_load(parser: argparse.ArgumentParser) -> None:
    scenarios = f"what the users do: {', '.join(SCENARIOS)} [browse]"
    parser.add_argument(
        "scenario", choices=[*SCENARIOS], nargs="?", default="browse", metavar="SCENARIO", help=scenarios
    )
    parser.add_argument("--shape", choices=[*SHAPES], default="steady", help="how the number of users changes [steady]")
    users = ", ".join(f"{shape} {users}" for shape, users in DEFAULT_USERS.items())
    parser.add_argument("--users", metavar="NUMBER", type=positive, help=f"users at most [{users}]")
    parser.add_argument("--seconds", metavar="NUMBER", type=positive, default=30, help="how long they come [30]")
    parser.add_argument(
        "--allow-shed",
        action=argparse.BooleanOptionalAction,
        help="whether a refusal by the balancer (503 with its reason) is expected [only in the spike shape]",
    )


def split_flags(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Return the arguments before "--" and those behind it, which argparse would take for arguments of its own."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:end], arguments[end + 1 :]


def positive(text: str) -> int:
    """Return the number. Raises `argparse.ArgumentTypeError` unless it is 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; it must be 1 or more")
    return number
