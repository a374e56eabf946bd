"""One measurement: start a server, see that its answer is right, drive it, stop it.

Decides the order of these, and what a right answer is. It must not know of other servers or other rounds.
"""

from __future__ import annotations

import contextlib
import http.client
import pathlib
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass

from . import BenchmarkError, idle, wrk
from .applications import FILE_VARIABLE
from .cases import FILE_BYTES, IDLE, Case
from .processes import Process
from .results import Measurement
from .servers import Server, clean_environment, start_command
from .starting import ANSWER_SECONDS, listening

__all__ = ["Plan", "check_answer", "measure", "serving"]


@dataclass(frozen=True)
class Plan:
    """How everything is measured."""

    seconds: int
    connections: int
    idle_connections: int
    server_core: int
    generator_core: int


def measure(server: Server, case: Case, plan: Plan, directory: pathlib.Path) -> Measurement:
    """Measure a server in a case, once. Raises `BenchmarkError` with the reason why it cannot be."""
    connections = plan.idle_connections if case.name == IDLE else 0
    with serving(server, case, plan.server_core, directory, connections) as (process, port):
        try:
            check_answer(case, port)
            return _idle(case, port, plan, process) if connections else _load(case, port, plan, process, directory)
        except (BenchmarkError, OSError) as error:
            raise BenchmarkError(f"{error}; the server's last words: {process.last_words()}") from None


@contextlib.contextmanager
def serving(
    server: Server, case: Case, core: int, directory: pathlib.Path, idle_connections: int = 0
) -> Iterator[tuple[Process, int]]:
    """Start a server with the application of a case; yield it and its port once it listens."""
    environ = clean_environment({FILE_VARIABLE: str(_file(directory))})
    log = directory / f"{server.name}.log"

    def command(port: int) -> list[str]:
        return start_command(server, case.application, port, idle_connections)

    with listening(command, core, log, environ) as started:
        yield started


def _file(directory: pathlib.Path) -> pathlib.Path:
    path = directory / "file"
    if not path.exists():
        path.write_bytes(bytes(FILE_BYTES))
    return path


def check_answer(case: Case, port: int) -> None:
    """Make the request of a case once. Raises `BenchmarkError` unless the answer is the right one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        connection.request(case.method, "/", case.body or None, dict(case.headers))
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise BenchmarkError(f"the server gave no whole answer: {error!r}") from None
    finally:
        connection.close()
    if response.status != 200:
        raise BenchmarkError(f"the server answered {response.status} instead of 200")
    if body != case.answer:
        raise BenchmarkError(
            f"the server's answer is wrong: {len(body)} bytes that begin with {body[:20]!r}, "
            f"instead of {len(case.answer)} that begin with {case.answer[:20]!r}"
        )


def _load(case: Case, port: int, plan: Plan, process: Process, directory: pathlib.Path) -> Measurement:
    began, busy, busy_children = time.monotonic(), process.busy_seconds(), _children_seconds()
    load = wrk.drive(case, port, plan.seconds, plan.connections, plan.generator_core, directory)
    seconds = time.monotonic() - began
    return Measurement(
        load.rate,
        process.peak_memory(),
        load.errors,
        load.p50,
        load.p99,
        (process.busy_seconds() - busy) / seconds,
        (_children_seconds() - busy_children) / seconds,
    )


def _children_seconds() -> float:
    """Return the processor time of the processes that have ended: between two looks, of the generator alone."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _idle(case: Case, port: int, plan: Plan, process: Process) -> Measurement:
    found = idle.hold(case, port, plan.idle_connections, process)
    return Measurement(found.bytes_each, found.memory, {"closed": found.closed} if found.closed else {})
