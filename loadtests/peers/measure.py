"""Makes one measurement: starts a server, checks its response, and applies load by wrk or idle connections."""

from __future__ import annotations

import contextlib
import pathlib
import re
import resource
import socket
import subprocess
import time
from dataclasses import dataclass, replace
from typing import Final

from ..common import LoadTestError
from ..common.processes import Process, running
from ..common.servers import Server, check_answer, serving
from .applications import FILE_VARIABLE
from .results import FILE_BYTES, IDLE, Case, Measurement

_PATIENCE_SECONDS: Final = 15
"""Seconds allowed for wrk in addition to the run."""
_MILLISECONDS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}
_SOCKET_ERRORS: Final = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
_NOT_RIGHT: Final = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_REQUESTS: Final = re.compile(r"(\d+) requests in ")
_RATE: Final = re.compile(r"Requests/sec: +([\d.]+)")


@dataclass(frozen=True)
class Plan:
    """The parameters of all measurements."""

    seconds: int
    connections: int
    idle_connections: int
    server_core: int
    generator_core: int


def drive_wrk(case: Case, port: int, plan: Plan, directory: pathlib.Path) -> Measurement:
    """Measure the request of a case with wrk. Raises `LoadTestError` if wrk fails."""
    command = ["wrk", "--threads=1", f"--connections={plan.connections}", f"--duration={plan.seconds}s", "--latency"]
    command += [f"--header={name}: {value}" for name, value in case.headers.items()]
    if case.body:
        script = directory / f"{case.name}.lua"
        body = f'string.rep("x", {len(case.body)})'
        script.write_text(f'wrk.method = "{case.method}"\nwrk.body = {body}\n', encoding="utf-8")
        command.append(f"--script={script}")
    with running([*command, f"http://127.0.0.1:{port}/"], plan.generator_core, directory / "wrk.log") as process:
        try:
            exit_code = process.wait(plan.seconds + _PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise LoadTestError(f"wrk has not ended {_PATIENCE_SECONDS} s after its time") from None
        if exit_code:
            raise LoadTestError(f"wrk ended with exit code {exit_code}: {process.last_words()}")
        return read_wrk(process.output())


def read_wrk(text: str) -> Measurement:
    """Parse the output of wrk; the result's rate excludes wrong responses. Raises `LoadTestError`."""
    requests, rate = _REQUESTS.search(text), _RATE.search(text)
    if requests is None or rate is None:
        raise LoadTestError(f"wrk did not say what it found: {text.strip()[-200:]!r}")
    sockets, not_right = _SOCKET_ERRORS.search(text), _NOT_RIGHT.search(text)
    counts = dict(zip(("connect", "read", "write", "timeout"), sockets.groups() if sockets else (), strict=False))
    counts["non-2xx"] = not_right[1] if not_right else "0"
    errors = {name: int(count) for name, count in counts.items() if int(count)}
    right = 1 - errors.get("non-2xx", 0) / max(int(requests[1]), 1)
    return Measurement(float(rate[1]) * right, 0, errors, _percentile(text, 50), _percentile(text, 99))


def _percentile(text: str, percent: int) -> float:
    match = re.search(rf"^ +{percent}% +([\d.]+)(us|ms|s|m|h)\b", text, re.MULTILINE)
    return float(match[1]) * _MILLISECONDS[match[2]] if match else 0.0


_AT_ONCE: Final = 100
_TIMEOUT_SECONDS: Final = 10.0
_SETTLE_SECONDS: Final = 1.5
"""Seconds without requests before the memory is read."""


def hold_idle(case: Case, port: int, number: int, server: Process) -> Measurement:
    """Send one request on each of `number` connections, keep these open, and measure. Raises `LoadTestError`.

    The error "closed" counts the connections that the server has closed before the memory is read.
    """
    connections: list[socket.socket] = []
    try:
        # First let the server allocate memory that it needs only once, which must not count as memory for connections.
        _open(case, port, _AT_ONCE, connections)
        _close(connections)
        time.sleep(_SETTLE_SECONDS)
        before = server.memory()
        while len(connections) < number:
            _open(case, port, min(_AT_ONCE, number - len(connections)), connections)
        time.sleep(_SETTLE_SECONDS)
        after = server.memory()
        closed = sum(map(_is_closed, connections))
        return Measurement((after - before) / number, after, {"closed": closed} if closed else {})
    finally:
        _close(connections)


def _open(case: Case, port: int, number: int, connections: list[socket.socket]) -> None:
    request = f"{case.method} / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    opened = len(connections)
    for _ in range(number):
        connections.append(socket.create_connection(("127.0.0.1", port), _TIMEOUT_SECONDS))
        connections[-1].sendall(request)
    for connection in connections[opened:]:
        _receive(connection, case.answer)


def _receive(connection: socket.socket, answer: bytes) -> None:
    received = b""
    while not received.endswith(answer):
        piece = connection.recv(65536)
        if not piece:
            raise LoadTestError(f"a connection was closed instead of answered, after {received[:40]!r}")
        received += piece


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return not connection.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _close(connections: list[socket.socket]) -> None:
    while connections:
        connections.pop().close()


def measure(server: Server, case: Case, plan: Plan, directory: pathlib.Path) -> Measurement:
    """Measure a server in a case once. Raises `LoadTestError` with the reason if the measurement fails."""
    connections = plan.idle_connections if case.name == IDLE else 0
    with serving_case(server, case, plan.server_core, directory, connections) as (process, port):
        try:
            check_answer(port, case.answer, body=case.body, headers=case.headers)
            if connections:
                return hold_idle(case, port, connections, process)
            return _load(case, port, plan, process, directory)
        except (LoadTestError, OSError) as error:
            raise LoadTestError(f"{error}; the server's last words: {process.last_words()}") from None


def serving_case(
    server: Server, case: Case, core: int, directory: pathlib.Path, idle_connections: int = 0
) -> contextlib.AbstractContextManager[tuple[Process, int]]:
    """Start a server with the application of a case; yield the process and its port once it listens."""
    file = directory / "file"
    if not file.exists():
        file.write_bytes(bytes(FILE_BYTES))
    environ = {FILE_VARIABLE: str(file)}
    return serving(server, case.application, core, directory, environ=environ, idle_connections=idle_connections)


def _load(case: Case, port: int, plan: Plan, process: Process, directory: pathlib.Path) -> Measurement:
    began, busy, busy_children = time.monotonic(), process.busy_seconds(), _children_seconds()
    measured = drive_wrk(case, port, plan, directory)
    seconds = time.monotonic() - began
    return replace(
        measured,
        memory=process.peak_memory(),
        server_busy=(process.busy_seconds() - busy) / seconds,
        generator_busy=(_children_seconds() - busy_children) / seconds,
    )


def _children_seconds() -> float:
    """Return the processor time of ended child processes; the difference of two calls is the generator's time."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
