"""The machine that a benchmark runs on, its two cores, its words on the way and the files that it leaves.

Decides how a benchmark behaves towards who has started it. It must not know what is measured.
"""

from __future__ import annotations

import os
import pathlib
import platform
import signal
import sys
from typing import Final, NoReturn

from ..interruption import ENDING
from . import BenchmarkError

__all__ = ["end_orderly", "machine", "pinning", "require_pinning", "say", "two_cores", "write"]

_QUIET_LOAD: Final = 0.5
"""The load average above which somebody else is at work on the machine."""


def end_orderly() -> None:
    """Let the signals that end a program raise `SystemExit`, so that what was started is stopped."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def say(text: str) -> None:
    """Tell how far it is; not on the standard output, for that one has the tables."""
    print(text, file=sys.stderr, flush=True)


def require_pinning() -> None:
    """Raises `BenchmarkError` where processes cannot be pinned to cores."""
    if not hasattr(os, "sched_setaffinity"):
        raise BenchmarkError(f"this needs /proc and processes pinned to cores, which {platform.system()} has not")


def two_cores() -> tuple[int, int]:
    """Return the core of the server and that of the generator; warn of what will spoil the figures."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        say("warning: there is only one core; server and generator share it, and the figures are of both")
    if os.getloadavg()[0] > _QUIET_LOAD:
        say(f"warning: the load average is {os.getloadavg()[0]:.2f}; what else runs here spoils the figures")
    return cores[0], cores[min(1, len(cores) - 1)]


def pinning(server_core: int, generator_core: int) -> str:
    """Say which cores are used."""
    shared = server_core == generator_core
    return "server and generator to the same core" if shared else "server to one core, generator to another"


def machine() -> str:
    """Name the processor and the system."""
    return f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def _processor() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def write(directory: pathlib.Path, name: str, text: str) -> None:
    """Write a file of the report. Raises `BenchmarkError`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchmarkError(f"cannot write to {str(directory)!r}: {error.strerror}; choose another --output") from None
