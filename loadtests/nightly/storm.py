"""Runs the storm and the soak. Clients act at random; at the end, their records must agree with the server's."""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import threading
import time
import traceback
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..common import LoadTestError
from .client import Client
from .runs import Faults, LongTest, WatchedServer, run, unbalanced
from .steps import STEPS, do, step

FLAGS: Final = (
    "--max-workers=2",
    "--max-concurrent-per-router=6",
    "--queue-size=12",
    "--routes=/late/* request_timeout_seconds=0.1 stream_idle_timeout_seconds=0.1",
)
"""Flags for a pool so small that a few clients fill it, and requests are queued and rejected."""
_END_SECONDS: Final = 120.0
_ANSWER_SECONDS: Final = 20.0


class Crew:
    """The clients of one server. Between two steps, a client pauses for at most `pause` seconds."""

    def __init__(self, number: int, seed: int, server: WatchedServer, faults: Faults, pause: float = 0.0) -> None:
        self._clients = [Client(each, seed, server.port, faults) for each in range(number)]
        self._server = server
        self._faults = faults
        self._pause = pause
        self._over = threading.Event()

    def summary(self) -> str:
        """Format the number of responses by status."""
        seen = sum((client.seen for client in self._clients), Counter[str]())
        return "seen: " + ", ".join(f"{count} x {what}" for what, count in seen.most_common())

    def about(self, target: str) -> bytes:
        """Request data about the application itself. Raises `LoadTestError` if the application does not respond."""
        end = time.monotonic() + _ANSWER_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._server.port}{target}", timeout=10) as answer:
                    return bytes(answer.read())
            except OSError as error:
                # This request can be rejected like any other.
                if time.monotonic() > end:
                    raise LoadTestError(f"the application does not answer {target}: {error}") from None
                time.sleep(0.05)

    def rehearse(self) -> int:
        """Do each step once, so that all code is loaded; return the number of the idle server's descriptors."""
        for each in STEPS:
            do(self._clients[0], each)
        self._clients[0].close()
        return self._server.become_quiet_and_count()

    def run(self, seconds: float, between: float = 0.5) -> Iterator[float]:
        """Let the clients act for `seconds`; yield the elapsed seconds every `between` seconds, for sampling."""
        threads = [threading.Thread(target=self._play, args=(client,), daemon=True) for client in self._clients]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        try:
            while (passed := time.monotonic() - began) < seconds:
                yield passed
                self._over.wait(min(between, max(seconds - passed, 0.01)))
        finally:
            self._over.set()
            self._await(threads)

    def settle(self, descriptors: int) -> None:
        """Wait until the server is idle, then compare the books with the ledger."""
        snapshot = self._server.become_quiet(self._faults, descriptors)
        self._faults.require(not unbalanced(snapshot), f"the snapshot: {unbalanced(snapshot)}")
        ledgers = [self.about(f"/books?client={client.book.client}") for client in self._clients]
        for client, ledger in zip(self._clients, ledgers, strict=True):
            for text in client.book.disagreements(ledger):
                self._faults.add(text)
        self._compare(snapshot, sum(map(sum, ledgers)))

    def _play(self, client: Client) -> None:
        try:
            while not self._over.is_set():
                step(client)
                self._over.wait(client.random.uniform(0, self._pause))
        except Exception:
            self._faults.add(f"a client has failed: {traceback.format_exc()}")
        finally:
            client.close()

    def _await(self, threads: list[threading.Thread]) -> None:
        end = time.monotonic() + _END_SECONDS
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        alive = sum(thread.is_alive() for thread in threads)
        self._faults.require(not alive, f"{alive} clients are still without an answer after {_END_SECONDS:g} s")

    def _compare(self, snapshot: dict[str, Any], runs: int) -> None:
        outcomes = snapshot["outcomes"]
        answered = sum(client.book.answered for client in self._clients)
        most = snapshot["submitted"] - outcomes["shed"] - outcomes["expired"]
        completed = outcomes["completed"]
        self._faults.require(answered <= completed, f"{answered} were answered, but only {completed} completed")
        self._faults.require(completed <= runs, f"{completed} have completed, but only {runs} were run")
        self._faults.require(runs <= most, f"{runs} were run, but only {most} were neither shed nor expired")


_STORM: Final = """\
Let clients act at random against our server: send requests, pipeline, read slowly,
disconnect, exceed deadlines, upgrade, send large bodies, provoke errors; then compare
their records with the application's ledger and the balancer's counters."""


def storm(arguments: Sequence[str] | None = None) -> int:
    """Run the storm; return the exit code."""
    test = LongTest("storm", _STORM, 300, (40, "clients at the same time"), "ledger", FLAGS, _play_storm)
    return run(test, arguments)


def _play_storm(parsed: argparse.Namespace, server: WatchedServer, faults: Faults) -> None:
    crew = Crew(parsed.clients, parsed.seed, server, faults)
    descriptors = crew.rehearse()
    for _ in crew.run(parsed.seconds):
        wrong = unbalanced(server.snapshot())
        faults.require(not wrong, f"the snapshot in the storm: {wrong}")
    crew.settle(descriptors)
    print(crew.summary())


_PARTS: Final = 5


@dataclass(frozen=True)
class Sample:
    """One sample of the resources that a server uses."""

    megabytes: float
    """Resident memory of the server."""
    objects: int
    """Number of objects that the garbage collector tracks, without those of ended greenlets."""
    greenlets: int
    """Number of live greenlets."""
    descriptors: int


@dataclass(frozen=True)
class Tolerance:
    """Allowed growth since the second fifth of the run, as a share plus an absolute amount."""

    share: float
    number: float

    def most(self, before: float) -> float:
        """Return the maximum allowed value, given the value `before`."""
        return before * (1 + self.share) + self.number


TOLERANCES: Final = {
    "megabytes": Tolerance(0.05, 8),
    "objects": Tolerance(0.02, 2000),
    "greenlets": Tolerance(0, 25),
    "descriptors": Tolerance(0, 15),
}
"""The tolerances by figure; the absolute amounts allow for a few more clients that are active during a sample."""


def growth(samples: Sequence[Sample]) -> Iterator[str]:
    """Yield a sentence for each figure that has grown: in a later fifth, its median exceeds the tolerance."""
    for name, tolerance in TOLERANCES.items():
        _, second, *later = medians(samples, name)
        most = tolerance.most(second)
        for fifth, median in enumerate(later, 3):
            if median > most:
                yield f"{name} were {second:g} in the second fifth, and {median:g} in fifth {fifth}: above {most:g}"


def medians(samples: Sequence[Sample], name: str) -> list[float]:
    """Return a figure's median in each fifth of the run. Raises `ValueError` for fewer than five samples."""
    if len(samples) < _PARTS:
        raise ValueError(f"{len(samples)} samples are too few; there must be {_PARTS} or more")
    cuts = [len(samples) * part // _PARTS for part in range(_PARTS + 1)]
    return [
        statistics.median(getattr(sample, name) for sample in samples[begin:end])
        for begin, end in itertools.pairwise(cuts)
    ]


def medians_table(samples: Sequence[Sample]) -> str:
    """Format the medians, one line per figure."""
    lines = (f"  {name:12}" + "".join(f"{median:10.0f}" for median in medians(samples, name)) for name in TOLERANCES)
    return "\n".join(["medians of each fifth:", *lines])


_SOAK: Final = """\
Let a few clients do what they do in the storm, steadily and for long, and see whether
memory, objects, greenlets and descriptors of our server stay as they were."""
_PAUSE_SECONDS: Final = 0.1
"""Maximum pause of a soak client between two steps, in seconds: the clients keep the server busy, but not full."""
_SAMPLES: Final = 200
_LEAST_SECONDS: Final = 0.25
_KEPT_BYTES: Final = 2000
_KEPT_OBJECTS: Final = 6
"""Maximum number of objects per kept greenlet. The package keeps 10,000 greenlets of aborted requests
(`keep_ident`)."""


def soak(arguments: Sequence[str] | None = None) -> int:
    """Run the soak; return the exit code."""
    test = LongTest("soak", _SOAK, 1200, (8, "clients at the same time"), "ledger", FLAGS, _play_soak)
    return run(test, arguments)


def _play_soak(parsed: argparse.Namespace, server: WatchedServer, faults: Faults) -> None:
    crew = Crew(parsed.clients, parsed.seed, server, faults, _PAUSE_SECONDS)
    descriptors = crew.rehearse()
    samples: list[Sample] = []
    between = max(parsed.seconds / _SAMPLES, _LEAST_SECONDS)
    for _ in crew.run(parsed.seconds, between):
        samples.append(_sample(crew, server))
    crew.settle(descriptors)
    print(crew.summary())
    print(medians_table(samples))
    for text in growth(samples):
        faults.add(text)


def _sample(crew: Crew, server: WatchedServer) -> Sample:
    counted = json.loads(crew.about("/objects"))
    megabytes = (server.memory() - counted["kept"] * _KEPT_BYTES) / 2**20
    objects = counted["objects"] - counted["kept"] * _KEPT_OBJECTS
    return Sample(megabytes, objects, counted["greenlets"], server.descriptors())
