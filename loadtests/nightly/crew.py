"""All clients of a run, each in a thread of its own, and whether their books and the ledger balance at the end.

Decides how the clients begin and end, and what must add up. It must not know what they do.
"""

from __future__ import annotations

import threading
import time
import traceback
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from ..target import LoadTestError
from .client import Client
from .faults import Faults
from .serving import WatchedServer, unbalanced
from .steps import STEPS, do, step

__all__ = ["FLAGS", "Crew"]

FLAGS: Final = (
    "--max-workers=2",
    "--max-concurrent-per-router=6",
    "--queue-size=12",
    "--routes=/late/* request_timeout_seconds=0.1 stream_idle_timeout_seconds=0.1",
)
"""A pool that a few clients fill, so that requests wait and are refused."""
_END_SECONDS: Final = 120.0
_ANSWER_SECONDS: Final = 20.0


class Crew:
    """So many clients of one server; `pause` is how long each waits at most between two steps, in seconds."""

    def __init__(self, number: int, seed: int, server: WatchedServer, faults: Faults, pause: float = 0.0) -> None:
        self._clients = [Client(each, seed, server.port, faults) for each in range(number)]
        self._server = server
        self._faults = faults
        self._pause = pause
        self._over = threading.Event()

    def summary(self) -> str:
        """Say what was answered, by status."""
        seen = sum((client.seen for client in self._clients), Counter[str]())
        return "seen: " + ", ".join(f"{count} x {what}" for what, count in seen.most_common())

    def about(self, target: str) -> bytes:
        """Ask the application for what it knows. Raises `LoadTestError` if it does not tell."""
        end = time.monotonic() + _ANSWER_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._server.port}{target}", timeout=10) as answer:
                    return bytes(answer.read())
            except OSError as error:
                # It may be refused as others are.
                if time.monotonic() > end:
                    raise LoadTestError(f"the application does not tell {target}: {error}") from None
                time.sleep(0.05)

    def rehearse(self) -> int:
        """Do each thing once, so that all is loaded; return how many descriptors the server has without clients."""
        for each in STEPS:
            do(self._clients[0], each)
        self._clients[0].close()
        return self._server.become_quiet_and_count()

    def run(self, seconds: float, between: float = 0.5) -> Iterator[float]:
        """Run for so long; yield the seconds that have passed, with so many between, for somebody to look meanwhile."""
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
        """Wait until the server is quiet, and balance the books."""
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
