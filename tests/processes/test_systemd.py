"""Tests of systemd's protocol with one process and with a supervisor: socket activation, and every notification."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

PATIENCE = 25.0
ROOT = pathlib.Path(__file__).parents[2]
ACTIVATE = shutil.which("systemd-socket-activate")
KEPT = f"--setenv=PYTHONPATH={ROOT}"
"""Flag for systemd-socket-activate, which passes on few environment variables."""

SUPERVISED = ("--processes", "2")

APP = """
import os

VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [" ".join([str(os.getpid()), *(name for name in VARIABLES if name in os.environ)]).encode()]
"""


class Peer:
    """A service manager: it receives the notifications of one service, and checks each of them."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.path = str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.received: list[dict[str, str]] = []
        self.senders: set[int] = set()

    def close(self) -> None:
        self._socket.close()

    def collect(self, seconds: float = 0.0) -> None:
        while select.select([self._socket], [], [], seconds)[0]:
            data, ancillary, _, _ = self._socket.recvmsg(65536, 64)
            self.senders.add(int.from_bytes(ancillary[0][2][:4], sys.byteorder))
            lines = data.decode().split("\n")
            assert all("=" in line for line in lines), lines
            self.received.append(dict(line.split("=", 1) for line in lines))
            seconds = 0.0

    def until(self, condition: Callable[[dict[str, str]], Any]) -> dict[str, str]:
        """Return the first notification that was not returned before and for which the condition holds."""
        end = time.monotonic() + PATIENCE
        seen = 0
        while True:
            for index, message in enumerate(self.received[seen:], seen):
                if condition(message):
                    del self.received[: index + 1]
                    return message
            seen = len(self.received)
            assert time.monotonic() < end, self.received
            self.collect(0.1)


@pytest.fixture
def peer(tmp_path: pathlib.Path) -> Iterator[Peer]:
    peer = Peer(tmp_path)
    yield peer
    peer.close()


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    (tmp_path / "served.py").write_text(APP)
    started: list[subprocess.Popen[bytes]] = []

    def run(*before: str, flags: tuple[str, ...] = (), **variables: str) -> subprocess.Popen[bytes]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("INTRALB_")}
        command = [sys.executable, "-m", "intralb_gevent", "serve", "served:app", *flags]
        with (tmp_path / "log").open("a") as log:
            environ = {**clean, "PYTHONPATH": str(ROOT), **variables}
            started.append(subprocess.Popen([*before, *command], cwd=tmp_path, env=environ, stderr=log))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def get(port: int, path: str = "/") -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        assert response.status == 200
        return response.read().decode()


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.mark.skipif(ACTIVATE is None, reason="systemd is not installed")
@pytest.mark.parametrize("flags", [(), SUPERVISED], ids=["one process", "supervisor"])
def test_listeners_of_systemd_are_taken_over(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: pathlib.Path, flags: tuple[str, ...]
) -> None:
    port, admin = free_port(), free_port()
    sockets = ["-l", f"127.0.0.1:{port}", "-l", f"127.0.0.1:{admin}", "--fdname=clients:admin"]
    # The address in --bind is in use, but the inherited listener replaces it.
    elsewhere = ("--bind", f"127.0.0.1:{port}", "--admin-bind", f"127.0.0.1:{admin}", "--ready-file", "ready.json")
    process = start(str(ACTIVATE), KEPT, *sockets, flags=(*flags, *elsewhere))
    end = time.monotonic() + PATIENCE
    while not is_open(port):
        assert time.monotonic() < end
    assert get(port).split()[1:] == []
    pid = int(get(port).split()[0])
    assert (pid == process.pid) is not bool(flags)
    assert get(admin, "/ready") == "serving\n"
    while not (tmp_path / "ready.json").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    facts = json.loads((tmp_path / "ready.json").read_text())
    assert (facts["pid"], facts["addresses"][0]["port"], facts["admin"]["port"]) == (process.pid, port, admin)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0


@pytest.mark.skipif(ACTIVATE is None, reason="systemd is not installed")
@pytest.mark.parametrize("flags", [(), SUPERVISED], ids=["one process", "supervisor"])
def test_a_listener_that_is_none_is_refused(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: pathlib.Path, flags: tuple[str, ...]
) -> None:
    port = free_port()
    process = start(str(ACTIVATE), KEPT, "--datagram", "-l", f"127.0.0.1:{port}", flags=flags)
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        end = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < end:
            client.sendto(b"hello", ("127.0.0.1", port))
            time.sleep(0.1)
    assert process.returncode == 2
    assert "descriptor 3 (unknown) of LISTEN_FDS: not a listening stream socket" in (tmp_path / "log").read_text()


def test_one_process_notifies_systemd(
    start: Callable[..., subprocess.Popen[bytes]], peer: Peer, tmp_path: pathlib.Path
) -> None:
    flags = ("--bind", "127.0.0.1:0", "--ready-file", "ready.json")
    process = start(flags=flags, NOTIFY_SOCKET=peer.path, WATCHDOG_USEC="1000000")
    assert peer.until(bool) == {"READY": "1", "STATUS": "serving"}
    port = json.loads((tmp_path / "ready.json").read_text())["addresses"][0]["port"]
    assert get(port).split()[1:] == []
    began = time.monotonic()
    for _ in range(4):
        assert peer.until(bool) == {"WATCHDOG": "1"}
    assert time.monotonic() - began < 4
    process.send_signal(signal.SIGTERM)
    assert peer.until(lambda message: "WATCHDOG" not in message) == {"STOPPING": "1", "STATUS": "draining"}
    assert process.wait(PATIENCE) == 0
    assert peer.senders == {process.pid}


def test_a_process_waits_for_its_ready_path(
    start: Callable[..., subprocess.Popen[bytes]], peer: Peer, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "served.py").write_text("""
import os

def app(environ, start_response):
    assert environ["HTTP_HOST"] == "localhost"
    warm = environ["PATH_INFO"] == "/warm" and environ["QUERY_STRING"] == "a=b" and os.path.exists("warm")
    start_response("204 No Content" if warm else "503 Service Unavailable", [])
    return []
""")
    flags = ("--bind", "127.0.0.1:0", "--ready-path", "/warm?a=b", "--ready-file", "ready.json")
    process = start(flags=flags, NOTIFY_SOCKET=peer.path)
    assert peer.until(bool) == {"STATUS": "not ready: /warm?a=b is answered 503 Service Unavailable"}
    assert not (tmp_path / "ready.json").exists()
    (tmp_path / "warm").touch()
    assert peer.until(bool) == {"READY": "1", "STATUS": "serving"}
    assert (tmp_path / "ready.json").exists()
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0


def test_a_process_that_cannot_start_says_why(start: Callable[..., subprocess.Popen[bytes]], peer: Peer) -> None:
    process = start(flags=("--queue-size", "many"), NOTIFY_SOCKET=peer.path)
    assert process.wait(PATIENCE) == 2
    (message,) = [peer.until(bool)]
    assert [*message] == ["STATUS"]
    assert message["STATUS"].startswith("queue_size: 'many' is not allowed")


def test_the_watchdog_of_another_process_is_not_served(
    start: Callable[..., subprocess.Popen[bytes]], peer: Peer
) -> None:
    flags = ("--bind", "127.0.0.1:0")
    start(flags=flags, NOTIFY_SOCKET=peer.path, WATCHDOG_USEC="100000", WATCHDOG_PID="1")
    assert "READY" in peer.until(bool)
    peer.collect(1.0)
    assert peer.received == []


def test_a_supervisor_notifies_systemd(
    start: Callable[..., subprocess.Popen[bytes]], peer: Peer, tmp_path: pathlib.Path
) -> None:
    flags = (*SUPERVISED, "--bind", "127.0.0.1:0", "--ready-file", "ready.json")
    process = start(flags=flags, NOTIFY_SOCKET=peer.path, WATCHDOG_USEC="2000000")
    unready = peer.until(lambda message: "STATUS" in message)
    assert unready == {"STATUS": "0 of 2 processes serve; 1 starting"}
    assert peer.until(lambda message: "READY" in message) == {"READY": "1", "STATUS": "2 of 2 processes serve"}
    peer.until(lambda message: message == {"WATCHDOG": "1"})
    port = json.loads((tmp_path / "ready.json").read_text())["addresses"][0]["port"]
    assert get(port).split()[1:] == []

    process.send_signal(signal.SIGHUP)
    reloading = peer.until(lambda message: "RELOADING" in message)
    assert 0 <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000 - int(reloading["MONOTONIC_USEC"]) < 10e6
    assert reloading["STATUS"] == "2 of 2 processes serve; reload running"
    assert peer.until(lambda message: "READY" in message) == {"READY": "1", "STATUS": "2 of 2 processes serve"}

    (tmp_path / "served.py").write_text("raise ImportError('half deployed')")
    process.send_signal(signal.SIGHUP)
    peer.until(lambda message: "RELOADING" in message)
    failed = peer.until(lambda message: "READY" in message)
    assert failed["STATUS"].startswith("2 of 2 processes serve; reload failed: process ")
    assert "importing 'served' failed: ImportError: half deployed" in failed["STATUS"]

    process.send_signal(signal.SIGUSR2)
    peer.until(lambda message: message == {"WATCHDOG": "1"})
    process.send_signal(signal.SIGTERM)
    assert peer.until(lambda message: "STOPPING" in message)["STATUS"].startswith("2 of 2 processes serve")
    assert process.wait(PATIENCE) == 0
    peer.collect()
    assert peer.senders == {process.pid}
    allowed = {"READY", "STATUS", "WATCHDOG", "STOPPING", "RELOADING", "MONOTONIC_USEC"}
    assert all(allowed.issuperset(message) for message in peer.received)
