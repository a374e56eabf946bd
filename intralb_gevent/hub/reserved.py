"""Keep the number of a closed descriptor reserved while an application may still watch this number.

libev aborts the process when a watcher refers to a descriptor that is not open. An application that has registered a
socket in a selector, and has neither unregistered the socket nor closed the selector, leaves such a watcher behind.
"""

from __future__ import annotations

import os

__all__ = ["ReservedDescriptor", "never_ready"]

_pipe: list[int] = []


def never_ready() -> int:
    """Return the end of a pipe that never becomes readable or writable, and that the event loop can watch.

    The first call opens the pipe, and raises an OSError if the process can open no more files. A socket calls this
    function before an application can watch its descriptor, so that no error is possible when the socket is closed.
    """
    if not _pipe:
        _pipe.extend(os.pipe())
    return _pipe[0]


class ReservedDescriptor:
    """A descriptor that was closed, and whose number stays open, but inactive, as long as this object exists."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.dup2(never_ready(), descriptor, inheritable=False)

    def __repr__(self) -> str:
        return f"<ReservedDescriptor {self._descriptor}>"

    def __del__(self) -> None:
        os.close(self._descriptor)
