"""One kind of handler: start our server with it, let its requests run into their deadlines, stop the server.

Decides the order of these, and that the server has come to rest before the next requests. It must not know of other
kinds.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..installed import COMMAND
from ..side_by_side import BenchmarkError
from ..side_by_side.processes import Process, running
from ..side_by_side.servers import clean_environment
from .applications import ADDRESS_VARIABLE, REST
from .clients import Crowd, Seen, run
from .kinds import Kind

__all__ = ["Plan", "measure"]

_START_SECONDS: Final = 15.0
_PATIENCE_SECONDS: Final = 5.0
"""How long after its deadline a request is waited for."""
_GAP_SECONDS: Final = 0.02
"""Between the beginnings of two requests, so that no crowd is more than the processor can do."""


@dataclass(frozen=True)
class Plan:
    """How everything is measured."""

    deadlines: Sequence[float]
    repetitions: int | None
    at_once: int
    server_core: int
    client_core: int

    def number(self, kind: Kind, deadline: float) -> int:
        """Return how many requests there are: unless it was said, fewer of those that take long."""
        if self.repetitions:
            return self.repetitions
        most, seconds, least = (20, 5.0, 3) if kind.alone else (100, 60.0, 20)
        return round(min(most, max(least, seconds / deadline)))


def measure(kind: Kind, plan: Plan, directory: pathlib.Path) -> Iterator[tuple[float, Seen]]:
    """Yield every deadline and what was seen at it. Raises `BenchmarkError`."""
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(_silent_peer())
        process, port = stack.enter_context(_serving(kind, plan, directory, peer.getsockname()))
        try:
            for deadline in plan.deadlines:
                for crowd in _crowds(kind, plan, deadline, port):
                    _require_rest(port)
                    for seen in run(crowd):
                        yield deadline, seen
                    _let_go(peer)
        except (BenchmarkError, OSError) as error:
            raise BenchmarkError(f"{error}; the server's last words: {process.last_words()}") from None


def _crowds(kind: Kind, plan: Plan, deadline: float, port: int) -> Iterator[Crowd]:
    number, path, patience = plan.number(kind, deadline), _path(deadline), deadline + _PATIENCE_SECONDS
    if kind.alone:
        for _ in range(number):
            yield Crowd(port, path, 1, 1, 0.0, patience)
    else:
        yield Crowd(port, path, number, plan.at_once, _GAP_SECONDS, patience)


def _path(deadline: float) -> str:
    return f"/{deadline:g}/"


def _require_rest(port: int) -> None:
    """See that an ordinary request is answered: what was ended before has then let go of the processor."""
    for seen in run(Crowd(port, REST, 1, 1, 0.0, _PATIENCE_SECONDS)):
        if seen.end != "200":
            raise BenchmarkError(f"an ordinary request in between: seen instead of 200: {seen.end}")


# The server, and the peer that never sends.


@contextlib.contextmanager
def _serving(kind: Kind, plan: Plan, directory: pathlib.Path, peer: tuple[str, int]) -> Iterator[tuple[Process, int]]:
    """Start our server with the application of a kind; yield it and its port once it listens."""
    ready = directory / f"{kind.name}.json"
    # Bodies begin at once, so what ends them is the end of a stream.
    routes = "; ".join(
        f"{_path(deadline)}* request_timeout_seconds={deadline:g} stream_timeout_seconds={deadline:g}"
        for deadline in plan.deadlines
    )
    flags = ["--bind=127.0.0.1:0", f"--ready-file={ready}", f"--routes={routes}"]
    command = [*COMMAND, "serve", kind.reference, *flags]
    address = kind.service.address if kind.service else "{}:{}".format(*peer)
    environ = clean_environment({ADDRESS_VARIABLE: address})
    with running(command, plan.server_core, directory / f"{kind.name}.log", environ) as process:
        yield process, _port(process, ready)


def _port(process: Process, ready: pathlib.Path) -> int:
    give_up = time.monotonic() + _START_SECONDS
    while not ready.exists():
        if process.exit_code is not None or time.monotonic() > give_up:
            raise BenchmarkError(f"the server has not started; its last words: {process.last_words()}")
        time.sleep(0.02)
    facts: dict[str, Any] = json.loads(ready.read_text(encoding="utf-8"))
    return int(facts["addresses"][0]["port"])


@contextlib.contextmanager
def _silent_peer() -> Iterator[socket.socket]:
    """Listen; the system completes connections by itself, and nobody answers on them."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        listener.setblocking(False)
        yield listener


def _let_go(peer: socket.socket) -> None:
    """Close the connections that have been made, so that there is room for more."""
    with contextlib.suppress(BlockingIOError):
        while True:
            peer.accept()[0].close()
