"""The signals that may interrupt a CPU-bound handler, and the default signal."""

from __future__ import annotations

import re
import signal
from typing import Any, Final

from .kinds import Kind, require

__all__ = ["INTERRUPT_SIGNAL", "signal_name", "signal_number"]

_FIRST: Final = int(getattr(signal, "SIGRTMIN", 0))
_LAST: Final = int(getattr(signal, "SIGRTMAX", -1))

_ORDINARY: Final = {
    name: int(getattr(signal, name))
    for name in ("SIGUSR1", "SIGUSR2", "SIGURG", "SIGIO", "SIGALRM", "SIGVTALRM", "SIGPROF")
}
"""Signals that can be selected besides the real-time signals; signals that end, stop or report on a process are
excluded."""

INTERRUPT_SIGNAL: Final = _FIRST + 12 if _FIRST else _ORDINARY["SIGUSR2"]
"""The default signal, SIGRTMIN+12. Software that is likely to run in this process, or to signal it, does not use this
signal.

According to source code and manuals, other software uses these signals:

- Below SIGRTMIN: the C library (32 and 33 in glibc, also 34 in musl).
- SIGRTMIN: .NET, and programs that request signals for a file descriptor.
- From SIGRTMIN+1 upwards: Mono and async-profiler, which take the first free signal.
- SIGRTMIN to +7, +13 to +18, and from +20: commands of systemd and its tools to process 1. A server in a container may
  be process 1.
- SIGRTMIN+10 to +15 except +12: nosh.
- SIGRTMAX: valgrind.
- SIGUSR1 and SIGUSR2: gunicorn, uWSGI and users of `faulthandler`.
- SIGPROF, SIGVTALRM and SIGALRM: profilers and timers.
- SIGURG: Go.
- SIGPWR and SIGXCPU: garbage collectors.

gdb, py-spy and OpenMP need no signal. The default is a fixed signal, and not the first signal that is free when the
server starts, because software that is loaded later might need that signal.
"""

_REAL_TIME: Final = re.compile(r"RT(?:MIN(?:\+(?P<above>[0-9]{1,2}))?|MAX(?:-(?P<below>[0-9]{1,2}))?)").fullmatch


def signal_number() -> Kind:
    """Return a `Kind` for signals that can interrupt a handler; a signal is stored as a number, and off as None."""
    names = ", ".join(_ORDINARY)
    allowed = f"a real-time signal such as SIGRTMIN+12 (by name or number, {_FIRST} to {_LAST}), {names}, or off"
    if not _FIRST:
        allowed = f"{names}, or off"
    return Kind(allowed, "SIGNAL", _convert, str, textual=True, write=signal_name)


def _convert(value: Any) -> int | None:
    if value is None or (isinstance(value, str) and value.lower() == "off"):
        return None
    require(isinstance(value, (int, str)) and not isinstance(value, bool))
    number = _number(value.upper()) if isinstance(value, str) else int(value)
    require(_FIRST <= number <= _LAST or number in _ORDINARY.values())
    return number


def _number(text: str) -> int:
    if text.isdecimal():
        return int(text)
    name = text.removeprefix("SIG")
    match = _REAL_TIME(name)
    if match is None:
        require("SIG" + name in _ORDINARY)
        return _ORDINARY["SIG" + name]
    return _LAST - int(match["below"] or 0) if name.startswith("RTMAX") else _FIRST + int(match["above"] or 0)


def signal_name(number: int | None) -> str:
    """Return the name of an allowed signal; "off" for None. Unlike the number, the name is the same in every C
    library."""
    if number is None:
        return "off"
    ordinary = {known: name for name, known in _ORDINARY.items()}
    return ordinary.get(number, f"SIGRTMIN+{number - _FIRST}")
