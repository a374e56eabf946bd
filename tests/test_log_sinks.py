"""The server goes on if it cannot write its log: the reader has stopped, the disk is full, or the file is closed."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

PATIENCE = 10.0

APP = """
import atexit, logging, multiprocessing, os, sys, time
import intralb_gevent
log = logging.getLogger("intralb_gevent")
atexit.register(lambda: log.error("the end"))

def app(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/wait":
        time.sleep(30)
    elif path == "/log":
        for number in range(int(query)):
            log.error("record %d %s", number, "x" * 50)
            if number % 500 == 0:
                # Prevents log records about a blocked event loop.
                time.sleep(0.001)
    elif path == "/print":
        print("y" * int(query), file=sys.stderr)
    elif path == "/out":
        print("z" * int(query), flush=True)
    elif path == "/close":
        os.closerange(3, 1000)
    elif path == "/redirect":
        os.dup2(os.open("elsewhere", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    elif path == "/session":
        intralb_gevent.current_session()
    elif path.startswith("/fail"):
        raise ValueError
    elif path == "/other":
        raise KeyError
    elif path == "/fork":
        child = multiprocessing.get_context("fork").Process(target=log.error, args=("from the child",))
        child.start()
        child.join()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""

PROGRAM = """
import json, logging, os
from gevent import monkey; monkey.patch_all()
from served import app
from intralb_gevent import LoadBalancer, Options, WSGIServer, graceful_shutdown
from intralb_gevent.observe.admin import AdminServer

logging.basicConfig(level=logging.INFO, {where})
balancer = LoadBalancer(app, Options(enable_logging=True, request_timeout_seconds=1, graceful_timeout_seconds=1))
server = WSGIServer(("127.0.0.1", 0), balancer)
admin = AdminServer(("127.0.0.1", 0), balancer)
graceful_shutdown(server)
server.start()
admin.start()
facts = dict(addresses=[dict(port=server.server_port)], admin=dict(port=admin.server_port))
with open("new", "w") as file:
    json.dump(facts, file)
os.rename("new", "ready.json")
server.serve_forever()
"""

LIMITS = ("--request-timeout-seconds", "1", "--graceful-timeout-seconds", "1")
COMMAND = ("-m", "intralb_gevent", "serve", "served:app", "--bind", "127.0.0.1:0", "--admin-bind", "127.0.0.1:0")


class Served:
    def __init__(self, directory: pathlib.Path, arguments: tuple[str, ...], **more: Any) -> None:
        environ = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
        self.process = subprocess.Popen([sys.executable, *arguments], cwd=directory, env=environ, **more)
        ready = directory / "ready.json"
        until(lambda: ready.exists() or self.process.poll() is not None)
        assert self.process.poll() is None
        facts = json.loads(ready.read_text())
        self.port, self.admin = facts["addresses"][0]["port"], facts["admin"]["port"]

    def get(self, path: str = "/", port: int | None = None) -> int:
        return self.read(path, port)[0]

    def read(self, path: str, port: int | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

    @property
    def dropped(self) -> int:
        return int(json.loads(self.read("/snapshot", self.admin)[1])["log_records_dropped"])

    @property
    def open_files(self) -> list[str]:
        found = []
        for link in pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir():
            # Suppress OSError, because the descriptor might already be closed.
            with contextlib.suppress(OSError):
                found.append(os.readlink(link))
        return found

    def send(self, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as client:
            client.sendall(data)
            return b"".join(iter(lambda: client.recv(65536), b""))

    def serves(self) -> bool:
        """Return True if the server answers a page, a page that exceeds its deadline, and a probe."""
        return (self.get(), self.get("/wait"), self.get("/live", self.admin)) == (200, 504, 200)

    def ends(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 2 * PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def serve(tmp_path: pathlib.Path) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def begin(*arguments: str, **more: Any) -> Served:
        (tmp_path / "served.py").write_text(APP)
        command = arguments if arguments[:1] == ("program.py",) else (*COMMAND, *LIMITS, *arguments)
        command = command if command is arguments else (*command, "--ready-file", "ready.json")
        made.append(Served(tmp_path, command, **more))
        return made[-1]

    yield begin
    for each in made:
        each.process.kill()
        each.process.wait()


class Pipe:
    """A small pipe from which no data is read until `read` is called."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)

    def read(self, last: bytes = b"") -> bytes:
        """Read until the end of the file, or until the text `last` has arrived."""
        data = b""
        while (part := os.read(self.reader, 65536)) and not (last and last in data + part):
            data += part
        return data + part


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    for descriptor in (made.reader, made.writer):
        with contextlib.suppress(OSError):
            os.close(descriptor)


@pytest.mark.parametrize("where", ["", "stream=None", "filename='/dev/stderr'"])
def test_a_reader_that_stops_does_not_stop_the_server(tmp_path, serve, pipe, where) -> None:
    (tmp_path / "program.py").write_text(PROGRAM.format(where=where))
    served = serve(*(("program.py",) if where else ("--enable-logging",)), stderr=pipe.writer)
    for _ in range(100):
        assert served.get("/?" + 100 * "q") == 200
    assert served.serves()
    assert served.ends() == 0


def test_nor_does_a_reader_of_the_standard_output_that_stops(serve, pipe) -> None:
    served = serve(stdout=pipe.writer)
    assert served.get("/out?1000000") == served.get("/out?1") == 200
    assert served.serves()
    assert served.ends() == 0


def test_nor_does_a_reader_of_the_standard_output_that_ends(serve, pipe) -> None:
    served = serve(stdout=pipe.writer)
    os.close(pipe.reader)
    assert served.get("/out?10") == served.get("/out?10") == 200
    assert served.ends() == 0


def test_nor_does_a_journal_that_stops(serve) -> None:
    journal, standard_error = socket.socketpair()
    with journal, standard_error:
        served = serve(stderr=standard_error)
        assert served.get("/print?1000000") == served.get("/log?1000") == 200
        assert served.serves()
        assert served.ends() == 0


def test_nor_does_a_terminal_that_stops(serve) -> None:
    master, terminal = os.openpty()
    served = serve(stderr=terminal)
    assert served.get("/print?100000") == served.get("/log?1000") == 200
    assert served.serves()
    assert served.ends() == 0
    os.close(master)
    os.close(terminal)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can change the user")
def test_a_pipe_of_another_user_is_written_by_a_thread(pipe) -> None:
    program = """
        import os, time
        from intralb_gevent.process.outlet import Outlet, drain
        os.setuid(65534)
        outlet = Outlet(2)
        began = time.monotonic()
        for number in range(5000):
            outlet.write(b"record %d\\n" % number)
        drain(0.1)
        print(time.monotonic() - began < 5, outlet.idle, flush=True)
        drain(10)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    root = str(pathlib.Path(__file__).parents[1])
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=pipe.writer) as process:
        os.close(pipe.writer)
        assert process.stdout is not None
        assert process.stdout.readline() == b"True False\n"
        assert pipe.read().splitlines() == [b"record %d" % number for number in range(5000)]


def test_reopened_log_files_get_what_follows(tmp_path, serve) -> None:
    (tmp_path / "program.py").write_text(PROGRAM.format(where="filename='log'"))
    served = serve("program.py")
    assert served.get("/before") == 200
    until(lambda: "GET /before 200" in (tmp_path / "log").read_text())
    (tmp_path / "log").rename(tmp_path / "rotated")
    served.process.send_signal(signal.SIGUSR1)
    until((tmp_path / "log").exists)
    assert served.get("/after") == 200
    until(lambda: "GET /after 200" in (tmp_path / "log").read_text())
    assert "/after" not in (tmp_path / "rotated").read_text()
    until(lambda: str(tmp_path / "rotated") not in served.open_files)


def test_malformed_requests_write_few_lines_and_a_count(tmp_path, serve) -> None:
    with (tmp_path / "log").open("wb") as log:
        served = serve(stderr=log)
    for _ in range(300):
        assert served.send(b"x\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert served.get() == 200
    served.ends()
    lines = (tmp_path / "log").read_text().splitlines()
    refused = [line for line in lines if "refused a request" in line]
    assert 10 < len(refused) < 30
    left_out = [int(line.split()[3]) for line in refused if " more like this in the last 10 s: " in line]
    assert sum(left_out) + len(refused) - len(left_out) == 300


def test_what_is_dropped_is_counted_and_reported_when_the_reader_goes_on(serve, pipe) -> None:
    served = serve(stderr=pipe.writer)
    os.close(pipe.writer)
    assert served.get("/log?12000") == 200
    dropped = served.dropped
    assert 1000 < dropped < 2500
    assert served.get() == 200
    log = pipe.read(last=b"were dropped")
    numbers = [int(line.split()[4]) for line in log.splitlines() if b" record " in line]
    assert numbers == list(range(12000 - dropped))
    assert f"records of the log were dropped, {dropped} in all: the reader is too slow".encode() in log
    served.process.send_signal(signal.SIGTERM)
    assert b"the end" in pipe.read()
    assert served.process.wait(PATIENCE) == 0


def test_a_long_record_comes_whole_and_in_order(serve, pipe) -> None:
    served = serve(stderr=pipe.writer)
    os.close(pipe.writer)
    for _ in range(3):
        assert served.get("/print?100000") == 200
    assert served.get("/log?1") == 200
    served.process.send_signal(signal.SIGTERM)
    lines = pipe.read().splitlines()
    assert [line for line in lines if line.startswith(b"y")] == 3 * [100000 * b"y"]
    (number,) = [number for number, line in enumerate(lines) if b" record 0 " in line]
    assert number > lines.index(100000 * b"y")


@pytest.mark.parametrize("sink", ["full", "dead", "closed"])
def test_it_starts_and_serves_where_the_standard_error_cannot_be_written(serve, pipe, sink) -> None:
    os.close(pipe.reader)
    if sink == "closed":
        served = serve("--enable-logging", preexec_fn=lambda: os.close(2))
    else:
        served = serve("--enable-logging", stderr=pipe.writer if sink == "dead" else os.open("/dev/full", os.O_WRONLY))
    assert served.get("/log?100") == served.get("/print?100") == 200
    assert served.serves()
    if sink != "closed":
        assert served.dropped > 100
    assert served.ends() == 0


def test_a_disk_that_is_full_for_a_while_costs_the_records_of_that_time(tmp_path, serve) -> None:
    limits = (20_000, resource.RLIM_INFINITY)
    with (tmp_path / "log").open("ab") as log:
        served = serve(stderr=log, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))
    assert served.get("/log?1000") == 200
    assert served.serves()
    dropped = served.dropped
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, 2 * (resource.RLIM_INFINITY,))
    assert served.get("/log?1") == 200
    text = (tmp_path / "log").read_text()
    dropped_line = rf"\n\S+ WARNING \d+ records of the log were dropped, {dropped} in all: File too large\n"
    assert re.search(dropped_line + r"\S+ ERROR \d+ record 0 x", text)
    assert served.ends() == 0


def test_a_process_that_a_handler_forks_meanwhile_ends(serve, pipe) -> None:
    served = serve(stderr=pipe.writer)
    assert served.get("/log?1000") == served.get("/fork") == 200
    assert served.ends() == 0


def test_a_handler_that_closes_all_descriptors_ends_the_process_with_the_reason(tmp_path, serve) -> None:
    with (tmp_path / "log").open("ab") as log:
        served = serve("--graceful-timeout-seconds", "20", stderr=log)
    with pytest.raises((OSError, http.client.HTTPException)):
        served.get("/close")
    # The process does not wait for running requests, because the event loop cannot poll any more.
    assert served.process.wait(PATIENCE) == 1
    text = (tmp_path / "log").read_text()
    assert re.search(r" CRITICAL \d+ shutting down because of SystemError outside of requests:", text)
    assert "epoll_wait: Bad file descriptor" in text
    assert "stopped, exit 1: an exception has ended it" in text


def test_an_application_may_direct_the_standard_error_to_another_file(tmp_path, serve, pipe) -> None:
    served = serve(stderr=pipe.writer)
    assert served.get("/log?1000") == 200
    # The request that redirects the output must be answered, too, although its own output goes to the old file.
    assert served.get("/redirect") == 200
    until(lambda: b"record 999 " in (tmp_path / "elsewhere").read_bytes())
    assert served.ends() == 0
    assert (tmp_path / "elsewhere").read_bytes().endswith(b"the end\n")


def test_an_outage_of_the_database_writes_one_traceback_and_a_count(tmp_path, serve) -> None:
    (tmp_path / "outage.py").write_text("def connect(worker):\n    raise ConnectionError('away')\n")
    with (tmp_path / "log").open("wb") as log:
        served = serve("--db-init-func", "outage:connect", stderr=log)
    for _ in range(50):
        assert served.get("/session") == 503
    served.ends()
    log = (tmp_path / "log").read_text()
    assert log.count("ConnectionError: away") == 1
    assert " 49 more like this in the last 10 s: no session for worker " in log


def test_equal_failures_of_handlers_write_a_few_tracebacks_and_a_count(tmp_path, serve) -> None:
    with (tmp_path / "log").open("wb") as log:
        served = serve(stderr=log)
    for number in range(20):
        assert served.get(f"/fail/{number}") == 500
    assert served.get("/other") == 500
    served.ends()
    log = (tmp_path / "log").read_text()
    assert [log.count(text) for text in ("| ValueError", "| KeyError")] == [5, 1]
    assert " 15 more like this in the last 10 s: GET /fail/19 failed: ValueError (request " in log
