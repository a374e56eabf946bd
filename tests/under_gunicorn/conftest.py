"""Fixtures: a real gunicorn, in a separate process, with this package's worker class."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gunicorn
import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0
CLIENT_PAUSE = 0.005
"""Seconds between two requests of a client. Without a pause, the clients would take the time of a processor that new
workers need to start."""

APPLICATION = """
# Each worker process has its own place in the answers; /wait/0.5 takes half a second.
import os, sqlite3, time
from flask import Flask, request
from intralb_gevent import current_session

app = Flask(__name__)

@app.route("/", methods=["GET", "POST"])
def hello():
    return request.get_data() or str(os.getpid())

@app.get("/wait/<float:seconds>")
def wait(seconds):
    open("begun", "w").close()
    time.sleep(seconds)
    return "waited"

@app.get("/spin")
def spin():
    open("begun", "w").close()
    while True:
        pass

@app.get("/block")
def block():
    # A system call that gevent does not know, and that no signal of the watchdog interrupts for long.
    import ctypes
    open("begun", "w").close()
    while True:
        ctypes.CDLL(None).usleep(500_000)

@app.get("/session")
def session():
    return str(current_session().execute("select 42").fetchone()[0])

@app.get("/fail")
def fail():
    raise ValueError("on purpose")

@app.get("/stream")
def stream():
    return (b"x" * 1000 for _ in range(3))

class Session(sqlite3.Connection):
    def close(self):
        super().close()
        with open("closed", "a") as file:
            print("closed", file=file)

def connect(worker_id):
    return Session(":memory:")
"""


PLAIN = """
import os

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


class Answer(NamedTuple):
    status: int
    body: str
    headers: dict[str, str]


class Gunicorn:
    """A gunicorn master with its workers; `get` sends a request to them."""

    def __init__(self, directory: Path, *flags: str, bind: str = "127.0.0.1:0", worker: str, **variables: str) -> None:
        self.directory = directory
        self._log = directory / "err.txt"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("INTRALB_")}
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        if gunicorn.version_info >= (25, 1):
            flags = (*flags, "--no-control-socket")
        with self._log.open("w") as err, (directory / "out.txt").open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "run_gunicorn.py", "-k", worker, "-b", bind, *flags, "myapp:app"],
                cwd=directory,
                env={**clean, "PYTHONPATH": path, **variables},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        self.masters = {self.process.pid}

    @property
    def said(self) -> str:
        return self._log.read_text()

    @property
    def printed(self) -> str:
        return (self.directory / "out.txt").read_text()

    def until(self, condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        """Wait until a condition returns a true value, and return that value."""
        end = time.monotonic() + seconds
        while not (result := condition()):
            assert time.monotonic() < end, self.said[-4000:]
            time.sleep(0.01)
        return result

    def serves(self, workers: int = 1) -> Gunicorn:
        """Wait until `workers` workers in total have begun to serve since the start."""
        self.until(lambda: self.said.count("serves (pid:") >= workers or self.process.poll() is not None)
        assert self.process.poll() is None, self.said
        return self

    @property
    def port(self) -> int:
        return int(self.until(lambda: re.search(r"Listening at: \w+://127\.0\.0\.1:(\d+)", self.said))[1])

    @property
    def serving(self) -> list[int]:
        """The pids of all workers that have begun to serve, in the order in which they began."""
        return [int(pid) for pid in re.findall(r"serves \(pid: (\d+)\)", self.said)]

    def workers(self, master: int | None = None) -> list[int]:
        """Return the pids of a master's current child processes, without those that are masters."""
        master = master or self.process.pid
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
            return [int(pid) for pid in children if int(pid) not in self.masters and not is_zombie(int(pid))]
        return []

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def get(self, path: str = "/", method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, response.read().decode(), dict(response.getheaders()))

    def begun(self) -> None:
        """Wait until the handler of a slow request has begun."""
        self.until((self.directory / "begun").exists)
        (self.directory / "begun").unlink()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait until the first master ends, and return its exit code."""
        return self.process.wait(PATIENCE)

    def stop(self) -> str:
        """Stop gunicorn as an operator would, and return its whole log."""
        self.signal(signal.SIGTERM)
        assert self.ended() == 0, self.said
        return self.said

    def kill(self) -> None:
        for master in self.masters:
            for pid in [*self.workers(master), master]:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()


class Clients:
    """Client threads that open a new connection for each request, and never send a request twice."""

    def __init__(self, served: Gunicorn, number: int = 4) -> None:
        self._served = served
        self._port = served.port
        self._stop = threading.Event()
        self.answers: Counter[str] = Counter()
        self.pids: set[str] = set()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(number)]

    def __enter__(self) -> Clients:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for each in self._threads:
            each.join(20)

    def _run(self) -> None:
        while not self._stop.wait(CLIENT_PAUSE):
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                self.pids.add(response.read().decode())
                self.answers[str(response.status)] += 1
            except (OSError, http.client.HTTPException) as error:
                self.answers[repr(error)] += 1
            finally:
                connection.close()


def is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Gunicorn]]:
    """Return a function that starts gunicorn with the application `myapp:app`; gunicorn is killed after the test."""
    made: list[Gunicorn] = []

    def run(
        *flags: str,
        application: str = APPLICATION,
        configuration: str = "",
        settings: str = "",
        worker: str = "intralb_gevent.gunicorn.Worker",
        **more: str,
    ) -> Gunicorn:
        directory = tmp_path / str(len(made))
        directory.mkdir()
        (directory / "myapp.py").write_text(application)
        (directory / "gunicorn.conf.py").write_text(configuration)
        # With `python -m gunicorn`, the master that SIGUSR2 starts would import gunicorn's `http` instead of Python's.
        (directory / "run_gunicorn.py").write_text("from gunicorn.app.wsgiapp import run\nrun()\n")
        if settings:
            (directory / "intralb.toml").write_text(settings)
        made.append(Gunicorn(directory, *flags, worker=worker, **more))
        return made[-1]

    yield run
    for each in made:
        each.kill()
