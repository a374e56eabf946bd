"""A server that is started afresh with the application under load, on its core.

Decides how it is started, and that it answers before it is put under load. It must not know what is sent to it then.
"""

from __future__ import annotations

import contextlib
import http.client
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ..side_by_side import BenchmarkError
from ..side_by_side.processes import Process
from ..side_by_side.servers import Server, clean_environment, start_command
from ..side_by_side.starting import ANSWER_SECONDS, listening
from .applications import ANSWER, STALL_VARIABLE

__all__ = ["Circumstances", "check_answers", "serving"]

_APPLICATION: Final = "loadtests.open_loop.applications:application"


@dataclass(frozen=True)
class Circumstances:
    """What is the same for all measurements."""

    seconds: float
    warm_up: float
    seed: str
    server_core: int
    generator_core: int
    directory: pathlib.Path

    @property
    def generator_log(self) -> pathlib.Path:
        """The file for what a generator writes."""
        return self.directory / "generator.log"

    @property
    def stall(self) -> pathlib.Path:
        """The file that stalls the application's database while it is there."""
        return self.directory / "stall"


@contextlib.contextmanager
def serving(server: Server, flags: Sequence[str], around: Circumstances) -> Iterator[tuple[Process, int]]:
    """Start a server with these flags; yield it and its port once it listens. Raises `BenchmarkError`.

    At the end too, if the server has ended by itself meanwhile.
    """

    def command(port: int) -> list[str]:
        return start_command(server, _APPLICATION, port, flags=flags)

    log = around.directory / f"{server.name}.log"
    environ = clean_environment({STALL_VARIABLE: str(around.stall)})
    with listening(command, around.server_core, log, environ) as (process, port):
        yield process, port
        if process.exit_code is not None:
            raise BenchmarkError(f"the server ended by itself; its last words: {process.last_words()}")


def check_answers(paths: Iterable[str], port: int) -> None:
    """Ask for each path once. Raises `BenchmarkError` where the answer is not that of the application."""
    for path in paths:
        status, body = _ask(path, port)
        if (status, body) != (200, ANSWER):
            raise BenchmarkError(f"the server answered {status} and {body[:20]!r} instead of 200 and {ANSWER!r}")


def _ask(path: str, port: int) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise BenchmarkError(f"the server gave no whole answer: {error!r}") from None
    finally:
        connection.close()
