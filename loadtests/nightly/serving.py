"""The server of a long test: how it is started, and what can be seen of it from outside while it runs and at its end.

Decides what of its log is a complaint. It must not know what is asked of it.
"""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import re
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from ..side_by_side.processes import memory_of
from ..target import LoadTestError, OwnServer, last_lines
from .faults import Faults

__all__ = ["WatchedServer", "complaints", "unbalanced"]

_ANSWER_SECONDS: Final = 20.0
_QUIET_SECONDS: Final = 20.0
"""How long the last requests and connections may take to end when no client is left."""
_SETTLING_SECONDS: Final = 0.5
_MARGIN: Final = "  | "
"""Stands before the lines of a traceback."""
_BAD_WORDS: Final = re.compile(
    r"bug in intralb_gevent|Fatal Python error|Exception ignored|Task was destroyed|never awaited|ResourceWarning"
)


class WatchedServer(OwnServer):
    """Serves one of the applications beside this file."""

    def __init__(self, directory: pathlib.Path, application: str, flags: Sequence[str]) -> None:
        command = ["serve", f"loadtests.nightly.{application}:application"]
        super().__init__(directory, command, f"the server of {application}", flags, {})
        self.port = 0
        self._admin_url = ""

    def begin(self) -> None:
        """Start it and wait until it listens. Raises `LoadTestError`."""
        self.start()
        target = self.target()
        self.port = int(urlsplit(target.url).port or 0)
        self._admin_url = target.admin_url

    @property
    def pid(self) -> int:
        """The id of its process."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """Return all that it has written."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def last_words(self) -> str:
        """Return the end of that."""
        return last_lines(self._log_path)

    def snapshot(self) -> dict[str, Any]:
        """Ask its admin address. Raises `LoadTestError` when it does not answer."""
        try:
            with urllib.request.urlopen(f"{self._admin_url}/snapshot", timeout=_ANSWER_SECONDS) as answer:
                return dict(json.load(answer))
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise LoadTestError(f"the server does not tell its snapshot: {error}") from None

    def descriptors(self) -> int:
        """Return how many files and sockets it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self) -> int:
        """Return its resident memory in bytes."""
        return memory_of(self.pid)

    def become_quiet_and_count(self) -> int:
        """Wait until nothing is left of the clients; return how many descriptors are open then."""
        wait_for(lambda: not _left(self.snapshot()), _QUIET_SECONDS)
        before = -1
        # Connections are closed a little after their clients have left.
        while (now := self.descriptors()) != before:
            before = now
            time.sleep(_SETTLING_SECONDS)
        return now

    def become_quiet(self, faults: Faults, descriptors: int) -> dict[str, Any]:
        """Wait until nothing is left of the clients, who have left; return the last snapshot."""
        is_quiet = wait_for(lambda: not _left(self.snapshot()), _QUIET_SECONDS)
        snapshot = self.snapshot()
        faults.require(is_quiet, f"without clients there is still {_left(snapshot)}")
        wait_for(lambda: self.descriptors() <= descriptors, _QUIET_SECONDS)
        left = self.descriptors()
        faults.require(left <= descriptors, f"{left} descriptors are open at the end, {descriptors} were at the start")
        return snapshot

    def end(self, faults: Faults) -> None:
        """Have it shut down, and look at its exit code and its log."""
        code = self.stop()
        faults.require(code == 0, f"the server ended with exit code {code}")
        for line in complaints(self.log()):
            faults.add(f"the log says: {line}")


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until the condition holds; return False if it does not within these seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def unbalanced(snapshot: dict[str, Any]) -> str:
    """Say what in a snapshot does not add up; "" if all does."""
    ended = sum(snapshot["outcomes"].values())
    counted = ended + snapshot["queued"] + snapshot["running"]
    if counted == snapshot["submitted"]:
        return ""
    return f"submitted are {snapshot['submitted']}, but {ended} ended, with those that wait and run {counted}"


def complaints(log: str) -> Iterator[str]:
    """Find the lines of a log that tell of a bug: such words, and tracebacks of what no handler was asked to raise."""
    in_traceback = False
    for line in log.splitlines():
        if _BAD_WORDS.search(line):
            yield line
        if "Traceback (most recent call last)" in line:
            in_traceback = True
        elif in_traceback and line.removeprefix(_MARGIN)[:1].strip():
            in_traceback = False
            if "AskedFor" not in line:
                yield line


def _left(snapshot: dict[str, Any]) -> str:
    kinds = ("queued", "running", "streams", "upgraded")
    return ", ".join(f"{snapshot[kind]} {kind}" for kind in kinds if snapshot[kind])
