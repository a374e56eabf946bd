"""Holds back the signals that end a program, while it starts or stops a process of its own.

Decides which signals these are. It must not know the processes.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Final

__all__ = ["ENDING", "uninterrupted"]

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a program in an orderly way."""


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Deliver the signals that end this program when the context is left.

    An exception of their handlers that is raised in `Popen`, or before its result is stored, would leave the new
    process behind; one that is raised while a process is being stopped would leave that one.
    """
    held: list[int] = []
    handlers = {number: signal.signal(number, lambda number, frame: held.append(number)) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for late in held:
        signal.raise_signal(late)
