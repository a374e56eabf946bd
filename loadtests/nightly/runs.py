"""Code that all long tests share: arguments, server, faults, verdict and exit code."""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import secrets
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from ..common.ours import OwnServer, snapshot
from ..common.processes import run_command
from ..common.report import add_limited, add_number, parser, positive, say

_MOST_CLIENTS: Final = 500
_EPILOG: Final = """\
exit codes:
  0  every invariant held
  1  one did not: the lines say which, and how to repeat the run
  2  the run could not be made
"""


def _parse(test: LongTest, arguments: Sequence[str] | None) -> argparse.Namespace:
    flags = parser(test.name, test.about, _EPILOG)
    add_number(flags, "--seconds", test.seconds, "how long it lasts")
    number, meaning = test.clients
    most = f"{meaning}, up to {_MOST_CLIENTS} [{number}]"
    add_limited(flags, "--clients", int, (1, _MOST_CLIENTS), metavar="NUMBER", default=number, help=most)
    seed = "the seed of all random choices; printed at the start [another one each time]"
    flags.add_argument("--seed", metavar="NUMBER", type=positive, default=1 + secrets.randbelow(10**6), help=seed)
    return flags.parse_args(arguments)


def repeat_with(command: str, parsed: argparse.Namespace) -> str:
    """Return the command line that repeats a run."""
    return f"python -m loadtests.{command} --seconds {parsed.seconds} --clients {parsed.clients} --seed {parsed.seed}"


_SHOWN: Final = 30


class Faults:
    """A thread-safe list of violated invariants."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """The number of faults, including repeated ones."""
        return self._found.total()

    def add(self, text: str) -> None:
        """Add a fault; the verdict shows a repeated text once, with its count."""
        with self._lock:
            self._found[text] += 1

    def require(self, holds: bool, text: str) -> None:
        """Add a fault unless the invariant holds."""
        if not holds:
            self.add(text)

    def conclude(self, command: str, parsed: argparse.Namespace, server_log: str) -> int:
        """Print the verdict; return the exit code."""
        if not self._found:
            print(f"{command}: every invariant held")
            return 0
        for text, count in self._found.most_common(_SHOWN):
            print(f"{command}: broken: {text}" + (f" ({count} times)" if count > 1 else ""))
        if len(self._found) > _SHOWN:
            print(f"{command}: and {len(self._found) - _SHOWN} more")
        say(f"The server's last words:\n{server_log}")
        print(f"repeat it with: {repeat_with(command, parsed)}")
        return 1


_QUIET_SECONDS: Final = 20.0
"""Seconds within which requests and connections must end after all clients have disconnected."""
_SETTLING_SECONDS: Final = 0.5
_MARGIN: Final = "  | "
"""Prefix of a traceback's lines in the log."""
_BAD_WORDS: Final = re.compile(
    r"bug in intralb_gevent|Fatal Python error|Exception ignored|Task was destroyed|never awaited|ResourceWarning"
)


class WatchedServer(OwnServer):
    """Our server with one of the applications in this directory."""

    def __init__(self, directory: pathlib.Path, application: str, flags: Sequence[str]) -> None:
        command = ["serve", f"loadtests.nightly.{application}:application"]
        super().__init__(directory, command, f"the server of {application}", flags)
        self.port = 0
        self._admin_url = ""

    def begin(self) -> None:
        """Start the server and wait until it listens. Raises `LoadTestError`."""
        self.start()
        target = self.target()
        self.port = int(urlsplit(target.url).port or 0)
        self._admin_url = target.admin_url

    def snapshot(self) -> dict[str, Any]:
        """Fetch a snapshot of the server. Raises `LoadTestError` if the admin address does not respond."""
        return snapshot(self._admin_url)

    def descriptors(self) -> int:
        """Return the number of the server's open files and sockets."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def become_quiet_and_count(self) -> int:
        """Wait until all requests and connections of clients have ended; return the number of open descriptors."""
        wait_for(lambda: not _left(self.snapshot()), _QUIET_SECONDS)
        before = -1
        # The server closes a connection a little after its client disconnects.
        while (now := self.descriptors()) != before:
            before = now
            time.sleep(_SETTLING_SECONDS)
        return now

    def become_quiet(self, faults: Faults, descriptors: int) -> dict[str, Any]:
        """Wait until the clients' requests and connections have ended; return the last snapshot."""
        is_quiet = wait_for(lambda: not _left(self.snapshot()), _QUIET_SECONDS)
        facts = self.snapshot()
        faults.require(is_quiet, f"without clients there is still {_left(facts)}")
        wait_for(lambda: self.descriptors() <= descriptors, _QUIET_SECONDS)
        left = self.descriptors()
        faults.require(left <= descriptors, f"{left} descriptors are open at the end, {descriptors} were at the start")
        return facts

    def end(self, faults: Faults) -> None:
        """Shut the server down; check its exit code and its log."""
        code = self.stop()
        faults.require(code == 0, f"the server ended with exit code {code}")
        for line in complaints(self.output()):
            faults.add(f"the log says: {line}")


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until the condition holds; return False after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def unbalanced(snapshot: dict[str, Any]) -> str:
    """Describe the inconsistency of a snapshot's counters; return "" if they are consistent."""
    ended = sum(snapshot["outcomes"].values())
    counted = ended + snapshot["queued"] + snapshot["running"]
    if counted == snapshot["submitted"]:
        return ""
    return f"submitted are {snapshot['submitted']}, but {ended} ended, with those that wait and run {counted}"


def complaints(log: str) -> Iterator[str]:
    """Yield the log lines that indicate a bug: certain words, and tracebacks that no client requested."""
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


Play = Callable[[argparse.Namespace, WatchedServer, Faults], None]


@dataclass(frozen=True)
class LongTest:
    """The description of one long test."""

    name: str
    about: str
    seconds: int
    clients: tuple[int, str]
    """The default number of clients, with the help text."""
    application: str
    flags: Sequence[str]
    play: Play
    """A function that runs the clients against the server, and adds faults."""


def run(test: LongTest, arguments: Sequence[str] | None) -> int:
    """Run a long test; return 0 if all invariants held, 1 if any was violated, or 2 if the run was impossible."""
    parsed = _parse(test, arguments)
    say(repeat_with(test.name, parsed))
    return run_command(test.name, partial(_run, test, parsed))


def _run(test: LongTest, parsed: argparse.Namespace) -> int:
    faults = Faults()
    with (
        tempfile.TemporaryDirectory(prefix=f"intralb-{test.name}-") as name,
        WatchedServer(pathlib.Path(name), test.application, test.flags) as server,
    ):
        server.begin()
        test.play(parsed, server, faults)
        server.end(faults)
        return faults.conclude(test.name, parsed, server.last_lines())
