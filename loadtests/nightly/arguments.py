"""What the long tests can be told on the command line: how long, how many, and from which seed.

Decides the flags and their bounds. It must not know what comes of them.
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Sequence
from typing import Final

from ..arguments import positive

__all__ = ["parse", "repeat_with"]

_MOST_CLIENTS: Final = 500
_EPILOG: Final = """\
exit codes:
  0  every invariant held
  1  one did not: the lines say which, and how to repeat the run
  2  the run could not be made
"""


def parse(
    command: str, description: str, seconds: int, clients: tuple[int, str], arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Return the arguments; ends the program with exit code 2 when they are wrong."""
    parser = argparse.ArgumentParser(
        prog=f"python -m loadtests.{command}",
        description=description,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seconds", metavar="NUMBER", type=positive, default=seconds, help=f"how long it lasts [{seconds}]"
    )
    number, meaning = clients
    most = f"{meaning}, up to {_MOST_CLIENTS} [{number}]"
    parser.add_argument("--clients", metavar="NUMBER", type=_clients, default=number, help=most)
    seed = "what chance is drawn from; printed at the start [another one each time]"
    parser.add_argument("--seed", metavar="NUMBER", type=positive, default=1 + secrets.randbelow(10**6), help=seed)
    return parser.parse_args(arguments)


def repeat_with(command: str, parsed: argparse.Namespace) -> str:
    """Return the command line that repeats a run."""
    return f"python -m loadtests.{command} --seconds {parsed.seconds} --clients {parsed.clients} --seed {parsed.seed}"


def _clients(text: str) -> int:
    number = positive(text)
    if number > _MOST_CLIENTS:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; it must be from 1 to {_MOST_CLIENTS}")
    return number
