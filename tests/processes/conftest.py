"""Fixtures for the tests in this directory: supervisors with their processes, and clients."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

PATIENCE = 25.0
START_PATIENCE = 90.0
"""Seconds within which a site starts on a busy machine."""

APP = """
import os, sys, threading, time
from gevent.monkey import get_original

with open("imported", "a") as file:
    print(os.getpid(), file=file)

memory = []

def app(environ, start_response):
    path = environ["PATH_INFO"]
    open("begun" + path.replace("/", "-"), "w").close()
    if path.startswith("/wait/"):
        time.sleep(float(path[6:]))
    elif path.startswith("/block/"):
        get_original("time", "sleep")(float(path[7:]))
    elif path == "/grow":
        memory.append(b"x" * 300_000_000)
    start_response(STATUS, [("Content-Type", "text/plain")])
    return [b"%d %d %s" % (os.getpid(), environ["wsgi.multiprocess"], VERSION)]

STATUS = "200 OK"
VERSION = b"one"
"""


class Site:
    """A supervisor with its processes, serving APP."""

    def __init__(self, process: Any) -> None:
        self.process = process
        self.directory: pathlib.Path = process.directory

    def until(self, condition: Callable[[], Any], within: float = PATIENCE) -> Any:
        end = time.monotonic() + within
        while not (result := condition()):
            assert time.monotonic() < end, self.said[-3000:]
            time.sleep(0.01)
        return result

    @property
    def said(self) -> str:
        return str(self.process.said)

    @property
    def pid(self) -> int:
        return int(self.process.process.pid)

    def is_ready(self) -> None:
        self.until(lambda: self.process.ready_file.exists() or self.process.process.poll() is not None, START_PATIENCE)
        assert self.process.process.poll() is None, self.said
        facts = json.loads(self.process.ready_file.read_text())
        assert facts["pid"] == self.pid
        self.port, self.admin = facts["addresses"][0]["port"], facts["admin"]["port"]

    def get(self, path: str = "/", port: int | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            return response.status, response.read().decode()

    def state(self) -> dict[str, Any]:
        """Return the content of /processes, or an empty state if the process that answers ends meanwhile."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, text = self.get("/processes", self.admin)
            assert status == 200
            return dict(json.loads(text))
        return {"processes": [], "reload": {"result": "", "cause": ""}, "generation": 0, "failure": ""}

    def ready(self) -> list[int]:
        return [each["pid"] for each in self.state()["processes"] if each["state"] == "ready"]

    def serves(self, processes: int, generation: int | None = None) -> bool:
        state = self.state()
        found = [each for each in state["processes"] if generation in (None, each["generation"])]
        return len(state["processes"]) == processes and [each["state"] for each in found] == ["ready"] * processes

    def deploy(self, text: str) -> None:
        (self.directory / "served.py").write_text(text)
        self.signal(signal.SIGHUP)

    @staticmethod
    def is_over(pid: int) -> bool:
        """Return whether a process has ended; a zombie counts as ended."""
        try:
            return " Z " in pathlib.Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return True

    def signal(self, number: int, pid: int | None = None) -> None:
        os.kill(pid or self.pid, number)

    def asked(self, path: str) -> Callable[[], int | None]:
        """Send a request in a thread, wait until its handler begins; return a function that waits for the status."""
        self.process.port = self.port
        return self.process.asked(path)  # type: ignore[no-any-return]

    def ended(self) -> int:
        return int(self.process.process.wait(PATIENCE))


@pytest.fixture
def begin(run_python: Callable[..., Any]) -> Iterator[Callable[..., Site]]:
    """Return a function that starts a supervisor; the supervisor and its processes are killed after the test."""
    sites: list[Site] = []

    def start(
        *flags: str,
        app: str = APP,
        processes: str | None = "2",
        program: Sequence[str] = ("-m", "intralb_gevent"),
        files: Mapping[str, str] | None = None,
    ) -> Site:
        command = [*program, "serve", "served:app", "--ready-file", "ready.json"]
        addresses = ["--bind", "127.0.0.1:0", "--admin-bind", "127.0.0.1:0"]
        count = [] if processes is None else ["--processes", processes]
        arguments = [*command, *addresses, *count, *flags]
        sites.append(Site(run_python(*arguments, files={"served.py": app, **(files or {})})))
        return sites[-1]

    yield start
    for site in sites:
        # Kill the processes, too: if only their supervisor is killed, they drain first.
        imported = site.directory / "imported"
        pids = {int(line) for line in imported.read_text().split()} if imported.exists() else set()
        site.process.process.kill()
        site.process.process.wait()
        for pid in pids:
            if _is_ours(pid):
                os.kill(pid, signal.SIGKILL)


def _is_ours(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"served:app" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


@pytest.fixture
def serve_site(begin: Callable[..., Site]) -> Callable[..., Site]:
    def start(*flags: str, **more: Any) -> Site:
        site = begin(*flags, **more)
        site.is_ready()
        return site

    return start


CLIENT_PAUSE = 0.005
"""Seconds between two requests of a client. Without a pause, the clients would take the time of a processor that new
processes need to start."""


class Clients:
    """Threads that open a new connection for each request, and count the results."""

    def __init__(self, site: Site, count: int = 4) -> None:
        self.site, self.answers, self.errors = site, 0, list[str]()
        self.texts: set[str] = set()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _run(self) -> None:
        while not self._stopping.wait(CLIENT_PAUSE):
            try:
                status, text = self.site.get()
            except Exception as error:
                self.errors.append(repr(error))
                continue
            self.answers += 1
            if status == 200:
                self.texts.add(text)
            else:
                self.errors.append(f"{status} {text}")


@pytest.fixture
def clients() -> type[Clients]:
    """Return the class `Clients`."""
    return Clients


@pytest.fixture
def app_text() -> str:
    """Return the source text of the application."""
    return APP
