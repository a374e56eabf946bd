"""systemd's protocol for inherited listeners: descriptors from 3 on, described by LISTEN_FDS (sd_listen_fds(3)).

The supervisor passes the listeners to its processes in the same way, together with the file that contains its state. A
process that inherits a state file has a supervisor.
"""

from __future__ import annotations

import _socket
import fcntl
import os
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from typing import Final, NamedTuple

from ..errors import OptionError

__all__ = [
    "ADMIN",
    "AGENT",
    "NOTIFY",
    "OWN",
    "STATE",
    "TABLE",
    "Descriptor",
    "check_listener",
    "inherited_names",
    "move_to_start",
    "take",
]

FIRST: Final = 3
"""Number of the first inherited descriptor (SD_LISTEN_FDS_START)."""

ADMIN: Final = "admin"
"""Descriptor name of the listener for the admin pages."""

AGENT: Final = "agent"
"""Descriptor name of the listener for HAProxy's agent checks; listeners with any other name are for clients."""

STATE: Final = "intralb-state"
"""Descriptor name of the file with the supervisor's state."""

TABLE: Final = "intralb-table"
"""Descriptor name of the table in shared memory (`supervise/table.py`)."""

OWN: Final = "intralb-"
"""Prefix of the names of all descriptors that are not listeners."""

NOTIFY: Final = "intralb-notify"
"""Descriptor name of the supervisor's own socket, which the supervisor passes only to its successor."""

_PID, _COUNT, _NAMES = "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"
_MOST_DIGITS: Final = 9
_FAMILIES: Final = (_socket.AF_INET, _socket.AF_INET6, _socket.AF_UNIX)


class Descriptor(NamedTuple):
    """An inherited descriptor and its name."""

    number: int
    name: str


def inherited_names(environ: Mapping[str, str], pid: int) -> Collection[str]:
    """Return the names of the descriptors that this process has inherited."""
    return environ.get(_NAMES, "").split(":") if environ.get(_PID) == str(pid) else ()


def take(environ: MutableMapping[str, str], pid: int) -> list[Descriptor]:
    """Return the inherited descriptors; this process's children inherit neither the descriptors nor the variables."""
    found = [environ.pop(name, "") for name in (_PID, _COUNT, _NAMES)]
    if found[0] != str(pid) or not found[1]:
        return []
    if not found[1].isdecimal() or len(found[1]) > _MOST_DIGITS:
        raise OptionError(f"{_COUNT}: {found[1][:30]!r} is not allowed; it must be a number of descriptors")
    names = found[2].split(":") if found[2] else []
    numbers = range(FIRST, FIRST + int(found[1]))
    for number in numbers:
        try:
            os.set_inheritable(number, False)
        except OSError as error:
            raise OptionError(f"{_COUNT}: descriptor {number} is not open ({error.strerror})") from None
    return [Descriptor(number, names[i] if i < len(names) else "unknown") for i, number in enumerate(numbers)]


def check_listener(descriptor: Descriptor, source: str = _COUNT) -> None:
    """Raise OptionError, which names the source, unless the descriptor is a listening stream socket."""
    where = f"descriptor {descriptor.number} ({descriptor.name}) of {source}"
    try:
        sock = _socket.socket(fileno=os.dup(descriptor.number))
    except OSError:
        raise OptionError(f"{where}: not a socket") from None
    try:
        listens = sock.type & 0xF == _socket.SOCK_STREAM and sock.family in _FAMILIES
        if not listens or not sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN):
            raise OptionError(f"{where}: not a listening stream socket; systemd's socket unit needs Accept=no")
    finally:
        sock.close()


def move_to_start(descriptors: Sequence[Descriptor]) -> dict[str, str]:
    """Renumber the descriptors from 3 on and make them inheritable; return the variables that describe them.

    Call this function only in a process that is about to execute a program, because the function closes any other
    descriptors with these numbers.
    """
    beyond = FIRST + len(descriptors)
    copies = [fcntl.fcntl(each.number, fcntl.F_DUPFD_CLOEXEC, beyond) for each in descriptors]
    for number, copy in enumerate(copies, FIRST):
        os.dup2(copy, number, inheritable=True)
    names = ":".join(each.name for each in descriptors)
    return {_PID: str(os.getpid()), _COUNT: str(len(descriptors)), _NAMES: names}
