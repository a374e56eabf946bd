"""The soak: a few clients with steady mixed traffic for long, and samples of how large the server is.

Decides how often it is sampled. It must not know what a client does, nor what flat means; `samples` does.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Final

from .crew import FLAGS, Crew
from .faults import Faults
from .runs import LongTest, run
from .samples import Sample, growth, table
from .serving import WatchedServer

__all__ = ["main"]

_ABOUT: Final = """\
Let a few clients do what they do in the storm, steadily and for long, and see whether
memory, objects, greenlets and descriptors of our server stay as they were."""
_PAUSE_SECONDS: Final = 0.1
"""How long a client rests at most between two steps: the server is busy, not full."""
_SAMPLES: Final = 200
_LEAST_SECONDS: Final = 0.25
_KEPT_BYTES: Final = 2000
_KEPT_OBJECTS: Final = 6
"""What belongs to an ended greenlet of an aborted request, at most: the package keeps 10,000 (`keep_ident`)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and return the exit code."""
    test = LongTest("soak", _ABOUT, 1200, (8, "clients at the same time"), "ledger", FLAGS, _play)
    return run(test, arguments)


def _play(parsed: argparse.Namespace, server: WatchedServer, faults: Faults) -> None:
    crew = Crew(parsed.clients, parsed.seed, server, faults, _PAUSE_SECONDS)
    descriptors = crew.rehearse()
    samples: list[Sample] = []
    between = max(parsed.seconds / _SAMPLES, _LEAST_SECONDS)
    for _ in crew.run(parsed.seconds, between):
        samples.append(_sample(crew, server))
    crew.settle(descriptors)
    print(crew.summary())
    print(table(samples))
    for text in growth(samples):
        faults.add(text)


def _sample(crew: Crew, server: WatchedServer) -> Sample:
    counted = json.loads(crew.about("/objects"))
    megabytes = (server.memory() - counted["kept"] * _KEPT_BYTES) / 2**20
    objects = counted["objects"] - counted["kept"] * _KEPT_OBJECTS
    return Sample(megabytes, objects, counted["greenlets"], server.descriptors())
