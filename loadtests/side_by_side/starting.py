"""Starts a server on a free port and waits until it listens.

Decides how long that may take. It must not know which server it is, or what is asked of it.
"""

from __future__ import annotations

import contextlib
import pathlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from . import BenchmarkError
from .processes import Process, running

__all__ = ["ANSWER_SECONDS", "free_port", "listening"]

ANSWER_SECONDS: Final = 10.0
"""How long a server may take to answer while nobody else asks it."""
_START_SECONDS: Final = 15.0


@contextlib.contextmanager
def listening(
    command: Callable[[int], Sequence[str]], core: int, log: pathlib.Path, environ: Mapping[str, str]
) -> Iterator[tuple[Process, int]]:
    """Start what `command` returns for a free port; yield it and its port once it listens. Raises `BenchmarkError`."""
    port = free_port()
    with running(command(port), core, log, environ) as process:
        _wait_until_listening(process, port)
        yield process, port


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_until_listening(process: Process, port: int) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS):
            return
        if process.exit_code is not None or time.monotonic() > give_up:
            raise BenchmarkError(f"the server has not started; its last words: {process.last_words()}")
        time.sleep(0.02)
