"""Tests of a server process under many slow clients, and under many clients that disconnect during a request.

The server imports this file, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import resource
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

HERE = pathlib.Path(__file__)
PATIENCE = 30.0
CROWD = 500
MEGABYTE = 1024**2
OPEN_FILES = 8192
TEXT = [("Content-Type", "text/plain")]


def application(environ: dict[str, Any], start_response: Any) -> Any:
    path, _, size = environ["PATH_INFO"][1:].partition("/")
    environ["intralb.session"].statements.append("select 1")
    if path == "sleeping":
        time.sleep(float(size))
    while path == "asking" and not environ["intralb.client_disconnected"]():
        time.sleep(0.005)
    start_response("200 OK", TEXT)
    if path == "whole":
        return [bytes(int(size))]
    if path == "parts":
        return parts(int(size))
    return parts(1024**4) if path == "endless" else [b"hello"]


def parts(size: int) -> Iterator[bytes]:
    for _ in range(size // 65_536):
        yield bytes(65_536)
        time.sleep(0)


class Session:
    """A fake database session; the tests only count sessions in use."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    def rollback(self) -> None:
        self.statements.clear()


def open_session(worker_id: int) -> Session:
    return Session()


class Served:
    """A server process with two slots, which the tests observe from outside."""

    def __init__(self, directory: pathlib.Path, *options: str) -> None:
        ready, self._errors = directory / "ready.json", directory / "stderr.txt"
        arguments = ["serve", f"{HERE.stem}:application", "--bind", "127.0.0.1:0", "--admin-bind", "127.0.0.1:0"]
        slots = ["--max-workers", "1", "--max-concurrent-per-router", "2", "--queue-size", "1000", "--max-streams", "2"]
        sessions = ["--db-init-func", f"{HERE.stem}:open_session", "--ready-file", str(ready)]
        (directory / "temporary").mkdir()
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "intralb_gevent", *arguments, *slots, *sessions, *options],
                cwd=HERE.parent,
                env={**os.environ, "PYTHONPATH": str(HERE.parents[2]), "TMPDIR": str(directory / "temporary")},
                stderr=errors,
            )
        self.wait_until(lambda: ready.exists() or self.process.poll() is not None)
        assert ready.exists(), self.said
        facts = json.loads(ready.read_text())
        self.port, self._admin = facts["addresses"][0]["port"], facts["admin"]["port"]

    @property
    def said(self) -> str:
        return self._errors.read_text()

    @property
    def memory(self) -> int:
        """Resident memory of the process, in bytes."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024

    @property
    def complaints(self) -> list[str]:
        """Lines of the server's log that report an exception."""
        return [line for line in self.said.splitlines() if re.search("Traceback|Error|bug", line)]

    @property
    def sizes_of_temporary_files(self) -> list[int]:
        sizes = []
        for file in pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir():
            # The server can close a file while this test reads the file's size.
            with contextlib.suppress(FileNotFoundError):
                if "(deleted)" in os.readlink(file):
                    sizes.append(file.stat().st_size)
        return sizes

    @property
    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def snapshot(self) -> dict[str, Any]:
        with socket.create_connection(("127.0.0.1", self._admin), PATIENCE) as client:
            client.sendall(b"GET /snapshot HTTP/1.0\r\n\r\n")
            return dict(json.loads(all_of(client).partition(b"\r\n\r\n")[2]))

    def outcome(self, name: str) -> int:
        return int(self.snapshot()["outcomes"][name])

    def wait_until(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.said
            time.sleep(0.01)

    def connect(self, receive_buffer: int = 4096) -> socket.socket:
        client = socket.socket()
        # Use a small receive buffer, so that the client's kernel accepts little data.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", self.port))
        return client

    def seconds_to_answer(self) -> float:
        """Return how many seconds a small request on a new connection takes."""
        began = time.monotonic()
        with self.connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert all_of(client).endswith(b"hello")
        return time.monotonic() - began

    @property
    def answers_at_once(self) -> bool:
        try:
            return self.seconds_to_answer() < 1
        except (AssertionError, ConnectionResetError):
            return False

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def abandon(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)


def all_of(client: socket.socket) -> bytes:
    data = b""
    while part := client.recv(65_536):
        data += part
    return data


def get(path: str) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode()


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """Raise the limit of open files for this process and its child processes."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < OPEN_FILES:
        pytest.skip(f"only {before[1]} open files are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], OPEN_FILES), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., Served]]:
    """Return a function that starts servers; they are stopped at the end of the test."""
    with contextlib.ExitStack() as stack:

        def started(*options: str) -> Served:
            served = Served(tmp_path, *options)
            stack.callback(served.abandon)
            return served

        yield started


@pytest.fixture
def crowd() -> Iterator[Callable[..., list[socket.socket]]]:
    """Return a function that opens many connections, and sends some data on each.

    The connections are closed at the end of the test.
    """
    with contextlib.ExitStack() as stack:

        def gather(served: Served, sayings: list[bytes], size: int = CROWD) -> list[socket.socket]:
            clients = []
            for number in range(size):
                clients.append(stack.enter_context(served.connect()))
                clients[-1].sendall(sayings[number % len(sayings)])
            return clients

        yield gather


@pytest.fixture
def answered(crowd) -> Callable[..., list[socket.socket]]:
    """Return a function that opens many connections, a few at a time.

    Each connection sends a request, but does not read the response.
    """

    def ask(served: Served, requests: list[bytes], size: int = CROWD) -> list[socket.socket]:
        clients: list[socket.socket] = []
        before = served.outcome("completed")
        while len(clients) < size:
            # Open only five at a time, because a server with two slots would reject some requests of a larger number.
            clients.extend(crowd(served, requests, 5))
            served.wait_until(lambda: served.outcome("completed") == before + len(clients))
        return clients

    return ask


BEGUN = [
    b"",
    b"GET / HT",
    b"GET / HTTP/1.1\r\nHost: x\r\nX",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nhalf",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nha",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\nX: y",
]


CUT_SHORT = b"HTTP/1.1 408 Request Timeout\r\n"


def test_crowds_that_send_slowly_and_read_slowly_keep_nobody_waiting(start, crowd, answered) -> None:
    # Use long timeouts, because opening all connections can take long on a busy machine, and no client must time out.
    patient = [flag for name in ("request", "header", "body", "write") for flag in (f"--{name}-timeout-seconds", "120")]
    served = start(*patient)
    served.seconds_to_answer()
    memory, open_files = served.memory, served.open_files
    clients = crowd(served, BEGUN)
    clients += answered(served, [get(f"/whole/{5 * MEGABYTE}"), get(f"/parts/{5 * MEGABYTE}")])
    waited = [served.seconds_to_answer() for _ in range(20)]
    assert statistics.median(waited) < 0.1
    assert served.memory - memory < 160 * MEGABYTE
    snapshot = served.snapshot()
    assert (snapshot["running"], snapshot["queued"]) == (0, 0)
    assert sum(worker["sessions"] for worker in snapshot["workers"]) <= 2
    assert served.open_files >= open_files + 2 * CROWD
    for client in clients:
        client.close()
    served.wait_until(lambda: served.open_files <= open_files)
    assert served.end() == 0
    assert served.complaints == []


def test_crowds_that_take_too_long_are_sent_away(start, crowd, answered) -> None:
    limits = ("--header-timeout-seconds", "0.5", "--body-timeout-seconds", "0.5", "--write-timeout-seconds", "0.5")
    served = start(*limits)
    served.seconds_to_answer()
    open_files = served.open_files
    senders = crowd(served, BEGUN)
    readers = answered(served, [get(f"/whole/{8 * MEGABYTE}")], 20)
    for number, client in enumerate(senders):
        # A client that has sent no data receives no response.
        assert all_of(client).startswith(CUT_SHORT if BEGUN[number % len(BEGUN)] else b"")
        client.close()
    served.wait_until(lambda: served.open_files <= open_files)
    assert all(len(all_of(client)) < 8 * MEGABYTE for client in readers)
    assert served.end() == 0
    assert served.complaints == []


def test_a_head_that_trickles_is_cut_at_its_time_whatever_comes(start) -> None:
    served = start("--header-timeout-seconds", "0.2")
    with served.connect() as client:
        client.settimeout(0.05)
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        answer, end = b"", time.monotonic() + PATIENCE
        while not answer and time.monotonic() < end:
            client.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                answer = client.recv(1000)
        assert answer.startswith(CUT_SHORT)


def test_the_next_head_has_its_own_time_after_an_answer(start) -> None:
    served = start("--header-timeout-seconds", "0.2")
    with served.connect() as client:
        client.settimeout(1.5)
        client.sendall(get("/") + b"GET / HT")
        assert CUT_SHORT in all_of(client)


def test_a_running_request_is_not_cut_because_the_next_one_trickles(start) -> None:
    served = start("--header-timeout-seconds", "0.2")
    with served.connect() as client:
        client.sendall(get("/sleeping/0.9"))
        served.wait_until(lambda: served.snapshot()["running"])
        client.sendall(b"GET / HT")
        assert client.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")


def cut_while_sending(client: socket.socket, seconds: float) -> bool:
    """Send single bytes with pauses, without reading; return True if the connection is cut within `seconds`."""
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            client.sendall(b"x")
            select.select([], [], [], 0.05)
    except ConnectionError:
        return True
    return False


def test_who_does_not_read_is_cut_also_while_it_sends(start) -> None:
    served = start("--write-timeout-seconds", "0.5")
    with served.connect() as client:
        client.sendall(get(f"/whole/{8 * MEGABYTE}") + b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n")
        # Wait for longer than the timeout: the client's kernel can accept a part first, which restarts the timeout.
        assert cut_while_sending(client, 5)


def test_a_flood_of_pipelined_requests_takes_little_memory(start, crowd) -> None:
    served = start("--request-timeout-seconds", "60")
    served.seconds_to_answer()
    memory = served.memory
    crowd(served, [get("/sleeping/60")], 2)
    served.wait_until(lambda: served.snapshot()["running"] == 2)
    crowd(served, [b"GET / HTTP/1.1\r\nHost:x\r\n\r\n" * 2500], 100)
    # Requests that have waited too long are rejected; then the next request from each client is started.
    served.wait_until(lambda: served.snapshot()["submitted"] >= 103)
    assert served.memory - memory < 40 * MEGABYTE


def pushed(client: socket.socket, data: bytes) -> None:
    """Send as much of `data` as the server and the kernel accept immediately."""
    client.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        client.sendall(data)


@pytest.mark.parametrize("ahead", [0, 60_000], ids=["large heads", "bodies"])
def test_so_does_a_flood_of_pipelined_bodies_and_large_heads(start, crowd, ahead: int) -> None:
    served = start("--request-timeout-seconds", "60", "--max-wait-seconds", "60")
    served.seconds_to_answer()
    crowd(served, [get("/sleeping/60")], 2)
    served.wait_until(lambda: served.snapshot()["running"] == 2)
    clients = crowd(served, [get("/waiting")], 40)
    memory = served.memory
    head = b"X: %b\r\n" % (b"x" * 30_000) if not ahead else b""
    one = b"POST / HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (head, ahead, bytes(ahead))
    for client in clients:
        pushed(client, one * 16)
    served.wait_until(lambda: served.snapshot()["queued"] == 40)
    # The clients have sent 12 MB in total.
    assert served.memory - memory < 6 * MEGABYTE


def test_who_reads_a_stream_slowly_does_not_fill_the_disk(start, answered) -> None:
    served = start("--request-timeout-seconds", "60")
    # These responses use up the memory budget for unsent responses.
    answered(served, [get(f"/whole/{8 * MEGABYTE}")], 40)
    before = sum(served.sizes_of_temporary_files)
    with served.connect(MEGABYTE) as client:
        client.sendall(get("/endless"))
        read = 0
        while read < 150 * MEGABYTE:
            read += len(client.recv(MEGABYTE))
            select.select([], [], [], 0.001)
        assert sum(served.sizes_of_temporary_files) - before < 75 * MEGABYTE


def test_connections_beyond_the_most_are_refused_and_accepting_goes_on(start, crowd) -> None:
    served = start("--max-connections", "50")
    kept = crowd(served, [get("/")], 50)
    assert all(client.recv(1000).startswith(b"HTTP/1.1 200 OK") for client in kept)
    for client in crowd(served, [get("/")], CROWD):
        with contextlib.suppress(ConnectionResetError):
            # If there are very many connections, the last clients receive no response.
            assert all_of(client)[:12] in (b"HTTP/1.1 503", b"")
        client.close()
    assert served.snapshot()["submitted"] == 50
    kept.pop().close()
    served.wait_until(lambda: served.answers_at_once)
    kept[0].sendall(get("/"))
    assert kept[0].recv(1000).startswith(b"HTTP/1.1 200 OK")
    assert served.complaints == []


# Clients that leave.


def reset(clients: list[socket.socket]) -> None:
    """Disconnect by resets: with this socket option, closing a socket sends a reset."""
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()


LEAVING = {
    "in a head": (b"GET / HTTP/1.1\r\nHo", 0),
    "in a body": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n" + bytes(2 * MEGABYTE), 0),
    "waiting": (get("/sleeping/0.05"), 100),
    "in a stream": (get("/endless"), 100),
    "with much unread": (get(f"/parts/{40 * MEGABYTE}"), 100),
}


@pytest.mark.parametrize("name", LEAVING)
def test_a_hundred_clients_that_leave_are_one_number(start, crowd, name: str) -> None:
    said, disconnected = LEAVING[name]
    served = start()
    served.seconds_to_answer()
    open_files = served.open_files
    clients = crowd(served, [said], 100)
    served.wait_until(lambda: served.open_files >= open_files + 100)
    reset(clients)
    served.wait_until(lambda: served.outcome("disconnected") == disconnected)
    served.wait_until(lambda: served.open_files <= open_files)
    snapshot = served.snapshot()
    assert (snapshot["running"], snapshot["queued"]) == (0, 0)
    assert snapshot["submitted"] == sum(snapshot["outcomes"].values()) == disconnected + 1
    assert served.seconds_to_answer() < 1
    assert served.end() == 0
    assert served.complaints == []


def test_an_application_can_ask_whether_its_client_has_left(start, crowd) -> None:
    served = start("--request-timeout-seconds", "60")
    clients = crowd(served, [get("/asking")], 2)
    served.wait_until(lambda: served.snapshot()["running"] == 2)
    reset(clients)
    served.wait_until(lambda: served.outcome("disconnected") == 2)
    assert served.complaints == []


def test_what_runs_for_nobody_is_ended_if_that_is_wanted(start, crowd) -> None:
    served = start("--request-timeout-seconds", "60", "--cancel-on-disconnect")
    clients = crowd(served, [get("/sleeping/50")], 100)
    served.wait_until(lambda: served.snapshot()["submitted"] == 100)
    assert served.snapshot()["running"] == 2
    reset(clients)
    served.wait_until(lambda: served.outcome("disconnected") == 100)
    assert served.seconds_to_answer() < 1
    assert served.complaints == []


# A machine that runs out of a resource.


def test_out_of_descriptors_it_serves_whom_it_has_and_accepts_again_later(start, crowd) -> None:
    served = start()
    served.seconds_to_answer()
    most = served.open_files + 20
    resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE, (most, most))
    clients = crowd(served, [get("/")], 60)
    assert all(client.recv(1000).startswith(b"HTTP/1.1 200 OK") for client in clients[:20])
    for client in clients:
        client.close()
    served.wait_until(lambda: served.answers_at_once)
    assert served.complaints == []


@pytest.mark.parametrize("beyond", [100, MEGABYTE])
def test_a_body_without_room_is_refused_and_forgotten(start, beyond: int) -> None:
    served = start()
    room = 2 * MEGABYTE
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    open_files = served.open_files
    with served.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (room + beyond) + bytes(room))
        # Wait until the file holds the whole body, except for a rest that is still in the file object's buffer.
        served.wait_until(lambda: any(size > room - 8192 for size in served.sizes_of_temporary_files))
        client.sendall(bytes(beyond))
        assert client.recv(1000).startswith(b"HTTP/1.1 507 ")
    served.wait_until(lambda: served.open_files <= open_files)
    assert served.seconds_to_answer() < 1
    began = time.monotonic()
    assert served.end() == 0
    # The server must not wait for a closed connection.
    assert time.monotonic() - began < 3
    assert served.complaints == []
