"""The servers whose processes are replaced: our supervisor, and gunicorn with our worker class."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import gevent

__all__ = ["KINDS", "Site"]

_APPLICATION = """
import os

def app(environ, start_response):
    body = b"\\n%d." % os.getpid()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""
_PATIENCE_SECONDS = 120.0
_RUN_GUNICORN = "from gunicorn.app.wsgiapp import run\nrun()\n"


class Site:
    """Two processes behind one listener, which `replace` replaces by others."""

    processes = 2

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "served.py").write_text(_APPLICATION)
        (directory / "run_gunicorn.py").write_text(_RUN_GUNICORN)
        self._log = directory / "log.txt"
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = int(sock.getsockname()[1])
        with self._log.open("w") as log:
            path = os.pathsep.join(sys.path)
            self._master = subprocess.Popen(
                [sys.executable, *self._command], cwd=directory, stderr=log, env={**os.environ, "PYTHONPATH": path}
            )
        self._until(self._ready)

    _command: list[str]

    @property
    def said(self) -> str:
        """The log of the server."""
        return self._log.read_text()

    def _ready(self) -> bool:
        return self.started >= self.processes

    @property
    def started(self) -> int:
        """Number of processes that have begun to serve."""
        return len(re.findall(r"serving served:app|serves \(pid:", self.said))

    def _until(self, condition: Any) -> None:
        with gevent.Timeout(_PATIENCE_SECONDS, TimeoutError(f"not reached: {self.said[-2000:]}")):
            while not condition():
                gevent.sleep(0.02)

    def _children(self) -> int:
        pid = self._master.pid
        return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    def replace(self) -> None:
        """Replace all processes, and wait until the old ones have ended."""
        before = self.started
        self._master.send_signal(signal.SIGHUP)
        self._until(lambda: self.started >= before + self.processes and self._children() == self.processes)

    def stop(self) -> int:
        """End the site, and return its exit code."""
        self._master.terminate()
        return self._master.wait(_PATIENCE_SECONDS)


class Supervised(Site):
    """Our supervisor; SIGHUP replaces its processes."""

    flags: tuple[str, ...] = ()

    @property
    def _command(self) -> list[str]:  # type: ignore[override]
        serve = ["-m", "intralb_gevent", "serve", "served:app", "--bind", f"127.0.0.1:{self.port}"]
        return [*serve, "--processes", "2", "--admin-bind", "127.0.0.1:0", "--ready-file", "ready.json", *self.flags]


class Replaced(Supervised):
    """Our supervisor, which SIGUSR2 replaces before each reload."""

    def replace(self) -> None:
        """Replace the supervisor, then its processes."""
        before = self.said.count("was replaced by")
        self._master.send_signal(signal.SIGUSR2)
        self._until(lambda: self.said.count("was replaced by") > before)
        super().replace()


class Recycled(Supervised):
    """Our supervisor, which replaces a process after a number of requests."""

    flags = ("--process-max-requests", "1000")

    def replace(self) -> None:
        """Wait until as many processes as there are were replaced."""
        before = self.started
        self._until(lambda: self.started >= before + self.processes)


class Gunicorn(Site):
    """gunicorn with our worker class; SIGHUP replaces its workers."""

    @property
    def _command(self) -> list[str]:  # type: ignore[override]
        bind = f"127.0.0.1:{self.port}"
        options = ["-w", "2", "-b", bind, "--keep-alive", "60", "--no-control-socket"]
        return ["run_gunicorn.py", "-k", "intralb_gevent.gunicorn.Worker", *options, "served:app"]


KINDS: dict[str, type[Site]] = {
    "reload": Supervised,
    "usr2": Replaced,
    "recycling": Recycled,
    "gunicorn": Gunicorn,
}
"""The ways of replacing processes, by the name on the command line."""
