"""The storm: clients that do everything at random against a small pool, and the books balanced at the end.

Decides what must hold while it lasts and afterwards. It must not know what a client does.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from .crew import FLAGS, Crew
from .faults import Faults
from .runs import LongTest, run
from .serving import WatchedServer, unbalanced

__all__ = ["main"]

_ABOUT: Final = """\
Let clients do everything at random against our server: ask, pipeline, read slowly,
leave halfway, come too late, upgrade, send large bodies, meet errors; then compare
what each knows with the application's ledger and the balancer's counters."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and return the exit code."""
    test = LongTest("storm", _ABOUT, 300, (40, "clients at the same time"), "ledger", FLAGS, _play)
    return run(test, arguments)


def _play(parsed: argparse.Namespace, server: WatchedServer, faults: Faults) -> None:
    crew = Crew(parsed.clients, parsed.seed, server, faults)
    descriptors = crew.rehearse()
    for _ in crew.run(parsed.seconds):
        wrong = unbalanced(server.snapshot())
        faults.require(not wrong, f"the snapshot in the storm: {wrong}")
    crew.settle(descriptors)
    print(crew.summary())
