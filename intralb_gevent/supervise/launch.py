"""Starts a process by fork and exec, with the descriptors and variables of systemd's protocol.

The exec loads the program again, so a new version of the application, of this package or of Python itself takes effect.
The process shares no memory with the supervisor.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from ..process.logline import LINES
from .descriptors import Descriptor, move_to_start
from .inbox import block

__all__ = ["CANNOT_EXECUTE", "Program", "own_command"]

_PROTOCOL: Final = frozenset(
    {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "MAINPID"}
)
"""Variables that are meant for the supervisor only."""

CANNOT_EXECUTE: Final = 127
"""Exit code of a process whose program cannot be executed; shells use the same code."""


def own_command() -> list[str]:
    """Return the command that has started this process."""
    arguments = sys.argv[1:]
    given = sys.orig_argv[1:]
    if given[len(given) - len(arguments) :] != arguments or "-c" in given[: len(given) - len(arguments)]:
        # Another program has called main() with arguments that are not its own, so do not repeat its command.
        given = ["-m", "intralb_gevent", *arguments]
    return [sys.executable, *given]


def start_directory() -> str:
    """Return the path of the current directory; symbolic links are kept as in $PWD, because a deployment may change a
    link."""
    named = os.environ.get("PWD", "")
    with contextlib.suppress(OSError):
        if named.startswith("/") and os.path.samefile(named, "."):
            return named
    return os.getcwd()


@dataclass(frozen=True)
class Program:
    """The program that the processes run: its command, and the directory in which it starts."""

    command: Sequence[str]
    directory: str

    def launch(self, descriptors: Sequence[Descriptor], variables: Mapping[str, str]) -> int:
        """Start a process that inherits the descriptors, and return the process's id."""
        mask = block()
        try:
            pid = os.fork()
            if pid == 0:
                self._become(descriptors, variables, mask)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pid

    def _become(
        self, descriptors: Sequence[Descriptor], variables: Mapping[str, str], mask: Collection[int]
    ) -> NoReturn:
        try:
            # Do not write to the supervisor's wakeup pipe, or the supervisor would handle this process's signals.
            signal.set_wakeup_fd(-1)
            # Leave Ctrl-C in a terminal to the supervisor, which drains the processes.
            os.setpgid(0, 0)
            self.execute(descriptors, {**variables, "WATCHDOG_PID": str(os.getpid())}, mask)
        except BaseException as error:
            os.write(2, f"{LINES.line('CRITICAL', f'cannot execute {self.command[0]}: {error}')}\n".encode())
        finally:
            os._exit(CANNOT_EXECUTE)

    def execute(self, descriptors: Sequence[Descriptor], variables: Mapping[str, str], mask: Collection[int]) -> None:
        """Replace this process with the program; this method never returns, but raises OSError if it fails."""
        os.chdir(self.directory)
        environ = {name: value for name, value in os.environ.items() if name not in _PROTOCOL}
        environ |= {**move_to_start(descriptors), **variables}
        for number in signal.Signals:
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execve(self.command[0], list(self.command), environ)
