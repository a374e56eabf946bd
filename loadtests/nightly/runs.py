"""The frame of a long test: its arguments, its server, its verdict.

Decides the order, and the exit code. It must not know what is tested.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..side_by_side.surroundings import end_orderly, say
from ..target import LoadTestError
from .arguments import parse, repeat_with
from .faults import Faults
from .serving import WatchedServer

__all__ = ["LongTest", "run"]

Play = Callable[[argparse.Namespace, WatchedServer, Faults], None]


@dataclass(frozen=True)
class LongTest:
    """One of the commands."""

    name: str
    about: str
    seconds: int
    clients: tuple[int, str]
    """How many, and what they are."""
    application: str
    flags: Sequence[str]
    play: Play
    """What is done to the server; it adds what it finds to the faults."""


def run(test: LongTest, arguments: Sequence[str] | None) -> int:
    """Run it; return 0 if every invariant held, 1 if one did not, or 2 if the run could not be made."""
    end_orderly()
    parsed = parse(test.name, test.about, test.seconds, test.clients, arguments)
    say(repeat_with(test.name, parsed))
    try:
        return _run(test, parsed)
    except LoadTestError as error:
        print(f"{test.name}: error: {error}", file=sys.stderr)
        return 2


def _run(test: LongTest, parsed: argparse.Namespace) -> int:
    faults = Faults()
    with tempfile.TemporaryDirectory(prefix=f"intralb-{test.name}-") as name:
        server = WatchedServer(pathlib.Path(name), test.application, test.flags)
        with server:
            server.begin()
            test.play(parsed, server, faults)
            server.end(faults)
            return faults.conclude(test.name, parsed, server.last_words())
