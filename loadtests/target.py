"""The server that is tested: one that is started for the run, or one that runs on this machine already.

Decides how the server is started, stopped and found, and which hosts are allowed. It must not know what is done to it.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final
from urllib.parse import urlsplit

from .installed import COMMAND, ROOT
from .interruption import uninterrupted

__all__ = [
    "POOL_FLAGS",
    "DemoServer",
    "LoadTestError",
    "OwnServer",
    "Target",
    "last_lines",
    "local_url",
    "with_defaults",
]

POOL_FLAGS: Final = (
    "--max-concurrent-per-router=4",
    "--queue-size=8",
    "--min-workers=2",
    "--max-workers=6",
    "--worker-group-size=2",
    "--worker-quiet-seconds=3",
)
"""A small pool, so that a few users make it queue, grow, shed and shrink."""
_LOCAL: Final = ("127.0.0.1", "localhost", "::1")
_START_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 20.0
_LAST_LINES: Final = 20


class LoadTestError(Exception):
    """The run cannot begin or go on; the message says why and what to do."""


@dataclass(frozen=True)
class Target:
    """Where the application and the server's own figures are."""

    url: str
    admin_url: str
    about: str
    """What it is, for the report."""
    flags: Sequence[str] = ()
    """What it was started with, as far as that is known."""


def local_url(flag: str, text: str) -> str:
    """Return the URL without a slash at its end, or raise `LoadTestError` unless it is of this machine."""
    parts = urlsplit(text)
    if parts.scheme != "http" or parts.hostname not in _LOCAL:
        raise LoadTestError(
            f"{flag}: {text!r} is not allowed; it must be http:// at 127.0.0.1, localhost or [::1], "
            "for a load test of anybody else's machine is an attack on it"
        )
    return text.rstrip("/")


class OwnServer:
    """Our server in a process of its own, on ports that the system picks.

    `command` is what follows the program's name, `about` what the report calls it. To be started within its context,
    which stops it in any case.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        command: Sequence[str],
        about: str,
        flags: Sequence[str],
        environ: Mapping[str, str],
    ) -> None:
        self._ready_file = directory / "ready.json"
        self._log_path = directory / "server.log"
        self._command = command
        self._about = about
        self._flags = flags
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> OwnServer:
        """Start nothing yet: a signal between a start and the context's body would leave the server behind."""
        return self

    def start(self) -> None:
        """Start the process; `target` waits until it listens."""
        environ = {**os.environ, **self._environ}
        command = [*COMMAND, *self._command, *self._own_flags(), *self._flags]
        with uninterrupted(), self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it, whatever has happened; if the run could not go on, tell what it said last."""
        if self._process is not None:
            with uninterrupted():
                self.stop()
        if isinstance(error, LoadTestError):
            error.args = (f"{error}\nThe server's last words:\n{last_lines(self._log_path)}",)

    def _own_flags(self) -> list[str]:
        ports = ["--bind=127.0.0.1:0", "--admin-bind=127.0.0.1:0"]
        return [*ports, f"--ready-file={self._ready_file}", "--no-enable-logging"]

    def target(self) -> Target:
        """Wait until it listens, and say where. Raises `LoadTestError` when it does not."""
        assert self._process is not None
        give_up = time.monotonic() + _START_SECONDS
        while not self._ready_file.exists():
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise LoadTestError(f"{self._about} has not started")
            time.sleep(0.02)
        facts = json.loads(self._ready_file.read_text(encoding="utf-8"))
        return Target(facts["addresses"][0]["url"], facts["admin"]["url"], self._about, self._flags)

    def stop(self) -> int:
        """Ask it to shut down, insist if it does not, and return its exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


class DemoServer(OwnServer):
    """The sample application, with a small pool and a database of its own."""

    def __init__(self, directory: pathlib.Path, flags: Sequence[str]) -> None:
        environ = {"INTRALB_DEMO_DATABASE": str(directory / "notes.sqlite3")}
        super().__init__(directory, ["demo"], "the demo", with_defaults(POOL_FLAGS, flags), environ)


def with_defaults(defaults: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Return the flags behind those of the defaults that they do not set; a default is written --NAME=VALUE."""
    given = {flag.partition("=")[0] for flag in flags}
    return [*(flag for flag in defaults if flag.partition("=")[0] not in given), *flags]


def last_lines(log: pathlib.Path) -> str:
    """Return the end of what a process has logged."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LAST_LINES:]) or "nothing"
