"""Fixtures shared by all tests: balancers and servers that are always stopped, server processes, and time limits."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gevent
import pytest
from gevent.baseserver import BaseServer
from hypothesis import HealthCheck, settings

from intralb_gevent import LoadBalancer, Options, WSGIServer
from intralb_gevent.http import unpatched
from intralb_gevent.pool.slotlog import FAILURES

# Set no deadline for examples, because their duration depends on the machine, not on the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# The tests' process is not monkey-patched on purpose; tests/test_library.py tests the warning.
unpatched._warned = True

PATIENCE = 30.0
"""Seconds after which an awaited event is considered lost."""

SERVED = """
# /wait/0.5 takes half a second, and `at` adds a path that calls a function.
import atexit, logging, os, signal, sys, threading, time
import gevent
from gevent.monkey import get_original

paths = {}

def app(environ, start_response):
    path = environ["PATH_INFO"]
    open("begun" + path.replace("/", "-"), "w").close()
    if path.startswith("/wait/"):
        time.sleep(float(path[6:]))
    elif path in paths:
        paths[path]()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]

def at(function):
    paths["/" + function.__name__] = function
    return function
"""


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Limit the run time of each test, so that a hanging test fails and shows where it waits."""
    with gevent.Timeout(30, AssertionError("the test has hung")):
        yield


@pytest.fixture(autouse=True)
def nothing_raised_in_the_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test during which a callback of the hub has raised.

    Greenlets and pywsgi may raise, because the application may. Servers report a broken listener to the hub.
    """
    hub = gevent.get_hub()
    report, raised = hub.handle_error, list[Any]()

    def handle_error(context: Any, kind: Any, error: Any, trace: Any) -> None:
        if not isinstance(context, (gevent.Greenlet, BaseServer, dict)) and isinstance(error, Exception):
            raised.append((context, error))
        report(context, kind, error, trace)

    monkeypatch.setattr(hub, "handle_error", handle_error)
    yield
    assert not raised


@pytest.fixture(autouse=True)
def unsummed() -> None:
    """Reset the summary of failures, so that one test's failures are not added to another's."""
    FAILURES.forget()


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Return a function that runs the event loop until a condition returns a true value, and returns that value."""

    def wait(condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + PATIENCE
        while not (result := condition()):
            assert time.monotonic() < end, f"{condition} did not come true"
            gevent.sleep(0.001)
        return result

    return wait


@pytest.fixture
def balance() -> Iterator[Callable[..., LoadBalancer]]:
    """Return a function that creates balancers; they are drained at the end of the test."""
    made: list[LoadBalancer] = []

    def make(application: Any, **options: Any) -> LoadBalancer:
        made.append(LoadBalancer(application, Options(**options)))
        return made[-1]

    yield make
    for balancer in made:
        balancer.drain(0)


def failed_callbacks(said: str) -> list[str]:
    """Return the errors that the event loop of a process has printed; the application's own greenlets may fail."""
    return [line for line in re.findall(r"^.* failed with \w+$", said, re.MULTILINE) if "<Greenlet" not in line]


class Answer(NamedTuple):
    status: int
    body: str


class ServedProgram:
    """A server process that the command line has started."""

    def __init__(self, directory: pathlib.Path, flags: tuple[str, ...], variables: dict[str, str]) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("INTRALB_")}
        command = [sys.executable, "-m", "intralb_gevent", "serve", "myapp:app", "--bind", "127.0.0.1:0"]
        self.directory = directory
        self._log = directory / "log.txt"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--ready-file", "ready.json", *flags],
                cwd=directory,
                env={**clean, "PYTHONPATH": str(pathlib.Path(__file__).parents[1]), **variables},
                stderr=log,
            )
        ready = directory / "ready.json"
        self.wait_until(ready.exists)
        self._port = json.loads(ready.read_text())["addresses"][0]["port"]

    @property
    def said(self) -> str:
        """All text that the server has written to standard error."""
        return self._log.read_text()

    def wait_until(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + 2 * PATIENCE
        while not (result := condition()):
            assert time.monotonic() < end, self.said[-3000:]
            assert self.process.poll() is None, self.said[-3000:]
            time.sleep(0.01)
        return result

    def get(self, path: str, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=2 * PATIENCE)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return Answer(response.status, response.read().decode())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def serve_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ServedProgram]]:
    """Return a function that serves an application, given as source text, in a process.

    The process is killed after the tests of the module.
    """
    made: list[ServedProgram] = []

    def start(application: str, *flags: str, **variables: str) -> ServedProgram:
        directory = tmp_path_factory.mktemp("program")
        (directory / "myapp.py").write_text(application)
        made.append(ServedProgram(directory, flags, variables))
        return made[-1]

    yield start
    for program in made:
        program.process.kill()
        program.process.wait()
        assert not failed_callbacks(program.said), program.said


@pytest.fixture
def serve() -> Iterator[Callable[..., WSGIServer]]:
    """Return a function that starts servers on free ports; they are stopped at the end of the test."""
    made: list[WSGIServer] = []

    def start(application: Any, **options: Any) -> WSGIServer:
        server = WSGIServer(("127.0.0.1", 0), LoadBalancer(application, Options(**options)))
        server.start()
        made.append(server)
        return server

    yield start
    for server in made:
        server.stop(0)


class Process:
    """A process that runs a command or a program, in its own directory, which has files for its output."""

    callbacks_may_fail = False
    """True if the application itself raises in the event loop."""

    def __init__(
        self, directory: pathlib.Path, arguments: Sequence[str], variables: Mapping[str, str] | None = None, **more: Any
    ):
        self.directory = directory
        self.ready_file = directory / "ready.json"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("INTRALB_")}
        with (directory / "stdout").open("w") as out, (directory / "stderr").open("w") as error:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=directory,
                env={**clean, "PYTHONPATH": str(pathlib.Path(__file__).parents[1]), **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=error,
                **more,
            )

    @property
    def printed(self) -> str:
        return (self.directory / "stdout").read_text()

    @property
    def said(self) -> str:
        return (self.directory / "stderr").read_text()

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until a condition returns a true value, and return that value."""
        end = time.monotonic() + PATIENCE
        while not (result := condition()):
            assert time.monotonic() < end, self.said
            time.sleep(0.005)
        return result

    def is_ready(self) -> None:
        self.until(lambda: self.ready_file.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.said
        self.port = json.loads(self.ready_file.read_text())["addresses"][0]["port"]

    def get(self, path: str = "/") -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            return response.status

    def asked(self, path: str) -> Callable[[], int | None]:
        """Send a request in a thread, wait until its handler begins, and return a function that waits for the status.

        The status is None if the request was cut.
        """
        statuses: list[int | None] = []

        def ask() -> None:
            try:
                statuses.append(self.get(path))
            except (OSError, http.client.HTTPException):
                statuses.append(None)

        thread = threading.Thread(target=ask, daemon=True)
        begun = self.directory / f"begun{path.replace('/', '-')}"
        thread.start()
        self.until(begun.exists)

        def status() -> int | None:
            thread.join(PATIENCE)
            return statuses[0]

        return status

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait for the process to end, and return the exit code."""
        return self.process.wait(PATIENCE)


@pytest.fixture
def run_python(tmp_path: pathlib.Path) -> Iterator[Callable[..., Process]]:
    """Return a function that runs Python in a new directory with the given files.

    The process is killed at the end of the test.
    """
    made: list[Process] = []

    def begin(*arguments: str, files: Mapping[str, str] | None = None, **more: Any) -> Process:
        directory = tmp_path / str(len(made))
        directory.mkdir()
        for name, content in (files or {}).items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text(content)
        made.append(Process(directory, arguments, **more))
        return made[-1]

    yield begin
    for each in made:
        each.process.kill()
        each.process.wait()
        assert each.callbacks_may_fail or not failed_callbacks(each.said), each.said


@pytest.fixture
def begin_serving(run_python: Callable[..., Process]) -> Callable[..., Process]:
    """Return a function that starts a server for an application by the command line, without waiting for the start.

    `parts` are appended to the application's module.
    """

    def begin(*parts: str, flags: Sequence[str] = (), **more: Any) -> Process:
        module = "\n".join([SERVED, *map(textwrap.dedent, parts)])
        command = ("-m", "intralb_gevent", "serve", "served:app", "--bind", "127.0.0.1:0", "--ready-file", "ready.json")
        return run_python(*command, *flags, files={"served.py": module}, **more)

    return begin


@pytest.fixture
def serve_app(begin_serving: Callable[..., Process]) -> Callable[..., Process]:
    """Return a function that serves an application by the command line; `parts` are appended to its module."""

    def begin(*parts: str, flags: Sequence[str] = (), **more: Any) -> Process:
        process = begin_serving(*parts, flags=flags, **more)
        process.is_ready()
        return process

    return begin
