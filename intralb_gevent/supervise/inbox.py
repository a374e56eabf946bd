"""The signals sent to the supervisor, received through a pipe that the supervisor's loop polls."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection
from types import FrameType
from typing import Final

__all__ = ["HANDLED", "Inbox", "block"]

HANDLED: Final = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGTTIN, signal.SIGTTOU, signal.SIGCHLD),
)
_BYTES: Final = 4096


class Inbox:
    """Collects the signals that this process receives."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in HANDLED:
            signal.signal(number, _note)
        # Unblock the signals, which a predecessor has blocked before it executed this program.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)

    def __repr__(self) -> str:
        return f"<Inbox {self._reader}>"

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._reader

    def take(self) -> bytes:
        """Return the numbers of the signals that have arrived."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._reader, _BYTES)
        return b""

    def hand_on(self) -> None:
        """Send the unread signals to this process again; the signals are blocked, so they stay pending for a
        successor."""
        for number in self.take():
            os.kill(os.getpid(), number)


def _note(number: int, frame: FrameType | None) -> None:
    """Do nothing, because the pipe reports the signal."""


def block() -> Collection[int]:
    """Block the handled signals before a fork or an exec, and return the earlier mask."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
