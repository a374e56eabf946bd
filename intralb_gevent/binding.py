"""Turns `--bind` into something to listen on, and an open listener into words.

Decides how an address is written, and what becomes of the file of a unix socket. It must not know what is
served there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import OptionError

__all__ = ["Address", "HostAddress", "UnixAddress", "parse", "removed_at_the_end"]

_HOST_AND_PORT = re.compile(r"(?:\[(?P<literal>[^\]]+)\]|(?P<host>[^:\[\]]+)):(?P<port>\d{1,5})")
_BACKLOG = 1024
"""Connections the system keeps until they are accepted; it lowers this to its own limit."""


@dataclass(frozen=True)
class HostAddress:
    """A TCP address. With port 0 the system picks one, and `bound()` tells it."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @contextlib.contextmanager
    def listener(self) -> Iterator[tuple[str, int]]:
        """Yield what a server is to listen on; it binds the address itself."""
        yield self.host, self.port

    def bound(self, port: int | None) -> HostAddress:
        """Return the address with the port that was bound."""
        return HostAddress(self.host, port or self.port)

    def facts(self) -> dict[str, str | int]:
        """Return what a script needs to connect, for the ready file."""
        return {"url": str(self), "host": self.host, "port": self.port}


@dataclass(frozen=True)
class UnixAddress:
    """The path of a unix socket. The process's umask decides who may connect."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"

    @contextlib.contextmanager
    def listener(self) -> Iterator[socket.socket]:
        """Yield a listening socket, and remove its file at the end."""
        self._remove_stale()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(self.path)
            listener.listen(_BACKLOG)
            with removed_at_the_end(self.path):
                yield listener

    def bound(self, port: int | None) -> UnixAddress:
        """Return the address itself: a path is known beforehand."""
        return self

    def facts(self) -> dict[str, str | int]:
        """Return what a script needs to connect, for the ready file."""
        return {"unix": self.path}

    def _remove_stale(self) -> None:
        """Remove the file that a killed server has left; raise OSError when it is anything else."""
        try:
            mode = os.stat(self.path).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise FileExistsError(errno.EEXIST, "a file that is not a socket is there")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            # Where the backlog of a live server is full, to wait would be to wait for that server.
            client.setblocking(False)
            if client.connect_ex(self.path) != errno.ECONNREFUSED:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        os.unlink(self.path)


@contextlib.contextmanager
def removed_at_the_end(path: str) -> Iterator[None]:
    """Remove the file that is there now when the block ends; a file that a successor has put there stays."""
    own = _identity(path)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            if _identity(path) == own:
                os.unlink(path)


def _identity(path: str) -> tuple[int, ...]:
    # With the time, for the number of a removed file is given to the next one.
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_mtime_ns


Address = HostAddress | UnixAddress


def parse(text: str, flag: str = "--bind") -> Address:
    """Return the address that HOST:PORT, [IPV6]:PORT or unix:PATH names, or raise OptionError naming the flag."""
    if text.startswith("unix:") and text != "unix:":
        return UnixAddress(os.path.abspath(text.removeprefix("unix:")))
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise OptionError(f"{flag}: {text!r} is not allowed; it must be HOST:PORT, [IPV6]:PORT or unix:PATH")
    return HostAddress(match["literal"] or match["host"], int(match["port"]))
