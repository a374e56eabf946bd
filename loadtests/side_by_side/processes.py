"""Processes that are started for a measurement: each on its core, and each stopped by its id whatever happens.

Decides how they are started, watched through /proc, and stopped. It must not know what they are.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ..interruption import uninterrupted

__all__ = ["Process", "core_busy_seconds", "memory_of", "pinned", "running"]

_STOP_SECONDS: Final = 5.0
"""How long a process may take to end by itself, before it is killed."""
_LAST_LINES: Final = 5
_PROC: Final = pathlib.Path("/proc")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
# Where the time without work is in a line of /proc/stat, counted from behind the core's name.
_IDLE_TICKS, _DISK_TICKS, _GUEST_TICKS = 3, 4, 8
# Where things are in /proc/PID/stat, counted from behind the program's name.
_STATE, _SESSION, _USER_TICKS, _SYSTEM_TICKS = 0, 3, 11, 12


class Process:
    """A process and all that it has started: together they are one session of the system's."""

    def __init__(self, popen: subprocess.Popen[bytes], log: pathlib.Path) -> None:
        self._popen = popen
        self._log = log

    @property
    def exit_code(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._popen.poll()

    def output(self) -> str:
        """Return what it has written so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def last_words(self) -> str:
        """Return the end of what it has written."""
        lines = [line.strip() for line in self.output().splitlines() if line.strip()]
        return " / ".join(lines[-_LAST_LINES:]) or "nothing"

    def members(self) -> list[int]:
        """Return the ids of all processes of its session that live."""
        return [pid for pid, stat in _stats() if int(stat[_SESSION]) == self._popen.pid and stat[_STATE] != "Z"]

    def memory(self) -> int:
        """Return the resident memory of all of them, in bytes."""
        return sum(_status(pid, "VmRSS") for pid in self.members())

    def peak_memory(self) -> int:
        """Return the most resident memory that each of them ever had, added up, in bytes."""
        return sum(_status(pid, "VmHWM") for pid in self.members())

    def busy_seconds(self) -> float:
        """Return the processor time that all of them have used."""
        used = [stat for _, stat in _stats() if int(stat[_SESSION]) == self._popen.pid]
        return sum(int(stat[_USER_TICKS]) + int(stat[_SYSTEM_TICKS]) for stat in used) / _TICKS_PER_SECOND

    def wait(self, seconds: float) -> int:
        """Wait until it ends, and return its exit code. Raises `subprocess.TimeoutExpired`."""
        return self._popen.wait(seconds)

    def stop(self) -> None:
        """Ask it to end, and kill what is left of its session after a while."""
        if self._popen.poll() is None:
            self._popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(_STOP_SECONDS)
        for pid in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._popen.wait()


@contextlib.contextmanager
def running(
    command: Sequence[str], core: int, log: pathlib.Path, environ: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """Start a command pinned to a core, its output in `log`; it has been stopped when the context is left."""
    process = None
    try:
        with uninterrupted(), pinned(core), log.open("wb") as output:
            process = Process(_start(command, output.fileno(), environ), log)
        yield process
    finally:
        if process is not None:
            with uninterrupted():
                process.stop()


def _start(command: Sequence[str], output: int, environ: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
    )


def core_busy_seconds(core: int) -> float:
    """Return for how long a core has worked for anybody since the system was started."""
    for line in (_PROC / "stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            # Guests are among the other kinds of work, too.
            worked = [int(each) for each in ticks[:_GUEST_TICKS]]
            return (sum(worked) - worked[_IDLE_TICKS] - worked[_DISK_TICKS]) / _TICKS_PER_SECOND
    return 0.0


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Run on one core, and start processes there, while the context lasts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _stats() -> Iterator[tuple[int, list[str]]]:
    for directory in _PROC.iterdir():
        if directory.name.isdecimal():
            # It may end while it is looked at.
            with contextlib.suppress(OSError):
                # The name is in parentheses, and may have spaces and parentheses in it.
                yield int(directory.name), (directory / "stat").read_text().rpartition(")")[2].split()


def memory_of(pid: int) -> int:
    """Return the resident memory of one process, in bytes."""
    return _status(pid, "VmRSS")


def _status(pid: int, name: str) -> int:
    """Return one of the sizes that /proc/PID/status tells, in bytes."""
    with contextlib.suppress(OSError):
        for line in (_PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
