"""Runs child processes, each pinned to a core, reads their figures from /proc, and describes the machine."""

from __future__ import annotations

import contextlib
import os
import pathlib
import platform
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Final, NoReturn, TypeVar

from . import LoadTestError
from .report import say

ROOT: Final = pathlib.Path(__file__).resolve().parents[2]
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that request an orderly exit."""
_STOP_SECONDS: Final = 5.0
"""Seconds between the termination signal and the kill signal."""
_LAST_LINES: Final = 20
_QUIET_LOAD: Final = 0.5
"""Load average above which other programs are assumed to be active on the machine."""
_SPARE_FILES: Final = 500
_PROC: Final = pathlib.Path("/proc")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
# Indices of fields in a line of /proc/stat; 0 is the first field after the core's name.
_IDLE_TICKS, _DISK_TICKS, _GUEST_TICKS = 3, 4, 8
# Indices of fields in /proc/PID/stat; 0 is the first field after the program's name.
_STATE, _SESSION, _USER_TICKS, _SYSTEM_TICKS = 0, 3, 11, 12
_Self = TypeVar("_Self", bound="Process")


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer termination signals until the context is left.

    The signal handlers raise an exception. During `Popen`, or before the result of `Popen` is stored, that exception
    would leave the new process running. During `stop`, it would leave the stopping process running.
    """
    held: list[int] = []
    handlers = {number: signal.signal(number, lambda number, frame: held.append(number)) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for late in held:
        signal.raise_signal(late)


class Process:
    """A process and all its descendants, which form one session of the operating system.

    Call `start` inside the context, which always stops the process. If `start` were called first, a signal before the
    context begins would leave the process running.
    """

    stop_seconds = _STOP_SECONDS
    """Seconds between the termination signal and the kill signal."""

    def __init__(
        self,
        command: Sequence[str],
        log: pathlib.Path,
        core: int | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._command, self._core, self._environ = command, core, environ
        self._log = log
        self._popen: subprocess.Popen[bytes] | None = None

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._popen is not None:
            with uninterrupted():
                self.stop()

    def start(self) -> None:
        """Start the command on its core, with its output in the log."""
        with uninterrupted(), pinned(self._core), self._log.open("wb") as log:
            self._popen = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._popen is not None
        return self._popen

    @property
    def pid(self) -> int:
        """The id of the process, which is also the id of its session."""
        return self._running.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, or None while the process runs."""
        return self._running.poll()

    def output(self) -> str:
        """Return the output so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def last_words(self, number: int = 5, separator: str = " / ") -> str:
        """Return the last non-empty lines of the output."""
        lines = [line.rstrip() for line in self.output().splitlines() if line.strip()]
        return separator.join(lines[-number:]).strip() or "nothing"

    def last_lines(self) -> str:
        """Return the end of the output for an error message, starting on a new line."""
        return self.last_words(_LAST_LINES, "\n")

    def members(self) -> list[int]:
        """Return the ids of all live processes in the session."""
        return [pid for pid, stat in _stats() if int(stat[_SESSION]) == self.pid and stat[_STATE] != "Z"]

    def memory(self) -> int:
        """Return the resident memory of all processes in the session, in bytes."""
        return sum(_status(pid, "VmRSS") for pid in self.members())

    def peak_memory(self) -> int:
        """Return the sum of the peak resident memory of the session's processes, in bytes."""
        return sum(_status(pid, "VmHWM") for pid in self.members())

    def busy_seconds(self) -> float:
        """Return the processor time of all processes in the session, in seconds."""
        used = [stat for _, stat in _stats() if int(stat[_SESSION]) == self.pid]
        return sum(int(stat[_USER_TICKS]) + int(stat[_SYSTEM_TICKS]) for stat in used) / _TICKS_PER_SECOND

    def wait(self, seconds: float) -> int:
        """Wait until the process ends; return its exit code. Raises `subprocess.TimeoutExpired`."""
        return self._running.wait(seconds)

    def wait_for(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until the condition holds. Raises `LoadTestError` after `seconds`, or if the process ends first."""
        give_up = time.monotonic() + seconds
        while not condition():
            if self.exit_code is not None or time.monotonic() > give_up:
                raise LoadTestError(f"{what} has not started; its last words: {self.last_words()}")
            time.sleep(0.02)

    def stop(self) -> int:
        """Terminate the process, kill the rest of its session after a while, and return the exit code."""
        if self.exit_code is None:
            self._running.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(self.stop_seconds)
        # Without /proc, `members` returns no ids, so add the id of the process itself.
        for pid in {*self.members(), *([self.pid] if self.exit_code is None else [])}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return self._running.wait()


@contextlib.contextmanager
def running(
    command: Sequence[str], core: int | None, log: pathlib.Path, environ: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """Start a command pinned to a core, with its output in `log`; stop the process when the context is left."""
    with Process(command, log, core, environ) as process:
        process.start()
        yield process


def core_busy_seconds(core: int) -> float:
    """Return the busy time of a core since boot, for all processes, in seconds."""
    for line in (_PROC / "stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            # Leave out guest time: the user time already includes it.
            worked = [int(each) for each in ticks[:_GUEST_TICKS]]
            return (sum(worked) - worked[_IDLE_TICKS] - worked[_DISK_TICKS]) / _TICKS_PER_SECOND
    return 0.0


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Pin this process, and the processes it starts, to a core inside the context; None means no pinning."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _stats() -> Iterator[tuple[int, list[str]]]:
    for directory in _PROC.iterdir() if _PROC.exists() else ():
        if directory.name.isdecimal():
            # The process can exit during the read.
            with contextlib.suppress(OSError):
                # The program's name is in parentheses, and can itself contain spaces and parentheses.
                yield int(directory.name), (directory / "stat").read_text().rpartition(")")[2].split()


def _status(pid: int, name: str) -> int:
    """Return the size in the field `name` of /proc/PID/status, in bytes."""
    with contextlib.suppress(OSError):
        for line in (_PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


# The command and its machine.


def run_command(name: str, run: Callable[[], int]) -> int:
    """Run a command; return its exit code, which is 2 after a `LoadTestError`.

    Termination signals raise `SystemExit`, so that started processes are stopped.
    """
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    try:
        return run()
    except LoadTestError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def require_pinning() -> None:
    """Raise `LoadTestError` if the operating system cannot pin processes to cores."""
    if not hasattr(os, "sched_setaffinity"):
        raise LoadTestError(f"this needs /proc and processes pinned to cores, which {platform.system()} has not")


def two_cores() -> tuple[int, int]:
    """Return the core of the server and that of the generator; warn of conditions that distort the figures."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        say("warning: there is only one core; server and generator share it, and the figures are of both")
    if os.getloadavg()[0] > _QUIET_LOAD:
        say(f"warning: the load average is {os.getloadavg()[0]:.2f}; what else runs here spoils the figures")
    return cores[0], cores[min(1, len(cores) - 1)]


def machine(server_core: int, generator_core: int) -> dict[str, str]:
    """Describe the time and the machine of a measurement, for the head of its report."""
    shared = server_core == generator_core
    return {
        "measured": time.strftime("%Y-%m-%d %H:%M"),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "load average before": f"{os.getloadavg()[0]:.2f}",
        "pinned": "server and generator to the same core" if shared else "server to one core, generator to another",
    }


def _processor() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def allow_connections(number: int) -> None:
    """Raise the open-file limit of this process and its children, to allow `number` connections.

    Raises `LoadTestError` if the system does not permit that limit.
    """
    needed = number + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise LoadTestError(
            f"{number} connections need {needed} open files and the system allows {hard}; "
            "raise the limit (ulimit -Hn) or ask for fewer with --idle-connections"
        )
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
