"""systemd's notification protocol: datagrams of `NAME=value` lines on a unix socket (sd_notify(3)).

A serving process sends notifications to systemd or to the supervisor, and does not know which of them receives the
notifications. The supervisor receives the notifications of its processes, and sends its own notifications to systemd.
No function of this module waits.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import secrets
import struct
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Final, NamedTuple

from ..errors import OptionError

__all__ = [
    "REQUESTS",
    "TRACEBACK",
    "Message",
    "Notifier",
    "NotifySocket",
    "status",
    "traceback_field",
    "watchdog_seconds",
]

REQUESTS: Final = "X_INTRALB_REQUESTS"
"""Field with the number of requests that a process has received; systemd ignores unknown fields."""

TRACEBACK: Final = "X_INTRALB_TRACEBACK"
"""Field with the traceback of a failed start; the lines of the traceback are separated by U+2028."""

_LINE_SEPARATOR: Final = "\u2028"
_VARIABLE: Final = "NOTIFY_SOCKET"
_CREDENTIALS: Final = struct.Struct("3i")
"""Format of the sender's process, user and group ids (struct ucred)."""

_MOST_BYTES: Final = 16 * 1024

_MOST_DIGITS: Final = 20
"""Maximum digits of a number of microseconds, which systemd reads as 64 bits."""

_SO_PASSCRED: Final = int(getattr(_socket, "SO_PASSCRED", 16))
_SCM_CREDENTIALS: Final = int(getattr(_socket, "SCM_CREDENTIALS", 2))


def status(text: str) -> str:
    """Return the field that describes the state of the service, as one line."""
    return f"STATUS={' '.join(text.split())[:1000]}"


def traceback_field(text: str) -> str:
    """Return the field with the last 6,000 characters of a traceback, as one line."""
    return f"{TRACEBACK}={_LINE_SEPARATOR.join(text.splitlines())[-6000:]}"


def watchdog_seconds(environ: MutableMapping[str, str], pid: int) -> float | None:
    """Return the seconds within which this process must send WATCHDOG=1 again; None if that is not required."""
    text, whose = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not text.isdecimal() or len(text) > _MOST_DIGITS or whose not in ("", str(pid)):
        return None
    return int(text) / 1e6 or None


class Notifier:
    """Sends notifications to an address; does nothing if there is no address."""

    def __init__(self, address: str | None) -> None:
        self.address = address
        self._unsent: tuple[str, ...] = ()
        self._socket: _socket.socket | None = None
        if address is not None:
            self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
            self._socket.setblocking(False)

    def __repr__(self) -> str:
        return f"<Notifier to {self.address}>"

    @classmethod
    def taken_from(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Return a notifier for NOTIFY_SOCKET, and remove this variable, so that child processes do not inherit it."""
        address = environ.pop(_VARIABLE, "")
        if address and address[0] not in "/@":
            raise OptionError(f"{_VARIABLE}: {address!r} is not allowed; it must be a path or begin with @")
        return cls(address or None)

    def send(self, *fields: str) -> None:
        """Send the fields in one datagram; if the receiver's buffer is full, send them later, with the next fields."""
        if self._socket is None or self.address is None:
            return
        # First remove the unsent fields, so that they are sent only once, even if a signal handler interrupts this
        # method and calls it again.
        fields, self._unsent = (*self._unsent, *fields), ()
        where = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            self._socket.sendto("\n".join(fields).encode("utf-8", "backslashreplace"), where)
        except BlockingIOError:
            self._unsent = _latest((*fields, *self._unsent))
        except OSError:
            # The receiver has ended, so the fields are dropped.
            return

    def close(self) -> None:
        """Close the socket; `send` then does nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _latest(fields: Iterable[str]) -> tuple[str, ...]:
    """Return the last value of each field: repeated fields, such as WATCHDOG=1, must not displace READY=1."""
    return tuple({each.partition("=")[0]: each for each in fields}.values())


class Message(NamedTuple):
    """A notification: the id of the process that has sent it, and its fields."""

    pid: int
    fields: dict[str, str]

    @property
    def traceback(self) -> str:
        """The traceback in this message, or ''."""
        return self.fields.get(TRACEBACK, "").replace(_LINE_SEPARATOR, "\n")


class NotifySocket:
    """The socket on which the supervisor receives notifications; the kernel adds the sender's id to each message."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM, 0, descriptor)
        self._socket.setblocking(False)
        if descriptor is None:
            # Use an abstract address, which leaves no file behind.
            self._socket.bind(f"\0intralb-{os.getpid()}-{secrets.token_hex(8)}")
            self._socket.setsockopt(_socket.SOL_SOCKET, _SO_PASSCRED, 1)

    def __repr__(self) -> str:
        return f"<NotifySocket {self.address}>"

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    @property
    def address(self) -> str:
        """The address of this socket, as it is written in NOTIFY_SOCKET."""
        name = self._socket.getsockname()
        return "@" + (name[1:].decode() if isinstance(name, bytes) else name[1:])

    def received(self) -> Iterator[Message]:
        """Yield the messages that have arrived."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, _ = self._socket.recvmsg(_MOST_BYTES, _socket.CMSG_SPACE(_CREDENTIALS.size))
                for level, kind, credentials in ancillary:
                    if (level, kind) == (_socket.SOL_SOCKET, _SCM_CREDENTIALS):
                        yield Message(_CREDENTIALS.unpack(credentials)[0], _fields(data))


def _fields(data: bytes) -> dict[str, str]:
    # Do not use splitlines(), which also splits at U+2028.
    lines = data.decode("utf-8", "replace").split("\n")
    return dict(line.split("=", 1) for line in lines if "=" in line)
