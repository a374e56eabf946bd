"""Which signal may interrupt a handler that never waits.

Decides what is allowed and which is the default. It must not know who sends it or what its handler does.
"""

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
"""The others that an application may give away. All that ends, stops or reports on a process must keep its meaning."""

INTERRUPT_SIGNAL: Final = _FIRST + 12 if _FIRST else _ORDINARY["SIGUSR2"]
"""SIGRTMIN+12, which nothing that is likely in this process or its surroundings uses.

Taken, by their sources and manuals: below SIGRTMIN the C library (glibc 32 and 33, musl 34 too); SIGRTMIN .NET, and
what asks the system for signals of a file descriptor; from SIGRTMIN+1 upwards Mono, and async-profiler, which take the
first free one; SIGRTMIN to +7, +13 to +18 and from +20 on what systemd and its tools tell a first process, as a server
in a container is; +10 to +15 except 12 what nosh does; SIGRTMAX valgrind; SIGUSR1 and SIGUSR2 gunicorn, uWSGI and
users of `faulthandler`; SIGPROF, SIGVTALRM and SIGALRM profilers and timers; SIGURG Go; SIGPWR and SIGXCPU collectors
of garbage. gdb, py-spy and OpenMP need none. A first free one at run time would not do: whoever comes later would
find it taken.
"""

_REAL_TIME: Final = re.compile(r"RT(?:MIN(?:\+(?P<above>[0-9]{1,2}))?|MAX(?:-(?P<below>[0-9]{1,2}))?)").fullmatch


def signal_number() -> Kind:
    """Return the kind of signals that may interrupt a handler; kept as a number, or None for off."""
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
    """Return how an allowed signal is written so that it means the same with another C library; off for None."""
    if number is None:
        return "off"
    ordinary = {known: name for name, known in _ORDINARY.items()}
    return ordinary.get(number, f"SIGRTMIN+{number - _FIRST}")
