"""Parse the addresses to listen on, and describe open listeners.

This module also removes the file of a unix socket when the server ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

from ..errors import OptionError
from ..supervise.descriptors import Descriptor, check_listener

__all__ = [
    "Address",
    "HostAddress",
    "InheritedAddress",
    "OpenAddress",
    "UnixAddress",
    "bound_socket",
    "inherited",
    "listening",
    "parse",
    "removed_at_the_end",
]

_BACKLOG = 1024
"""Maximum number of connections that the kernel queues until the server accepts them; net.core.somaxconn may lower the
maximum."""


@dataclass(frozen=True)
class HostAddress:
    """A TCP address. If the port is 0, the kernel chooses a port, which `bound()` fills in."""

    host: str
    port: int
    scheme: str = "http"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """True if only this machine can connect."""
        return self.host == "localhost" or (_is_ip(self.host) and ip_address(self.host).is_loopback)

    @contextlib.contextmanager
    def listener(self) -> Iterator[tuple[str, int]]:
        """Yield the host and the port; the server binds its socket to this address."""
        yield self.host, self.port

    def bound(self, port: int | None) -> HostAddress:
        """Return the address with the port that the server has bound."""
        return replace(self, port=port or self.port)

    def facts(self) -> dict[str, str | int]:
        """Return the data that a script needs to connect; the ready file contains this data."""
        return {"url": str(self), "host": self.host, "port": self.port}


@dataclass(frozen=True)
class UnixAddress:
    """The path of a unix socket; `mode` decides which users may connect."""

    path: str
    mode: int = 0o777
    owner: tuple[int, int] = (-1, -1)
    """User id and group id that the file gets as its owner; -1 leaves an id unchanged."""
    is_local = True

    def __str__(self) -> str:
        return f"unix:{self.path}"

    @contextlib.contextmanager
    def listener(self) -> Iterator[socket.socket]:
        """Yield a listening socket, and remove its file at the end of the block."""
        self._remove_stale()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            earlier = os.umask(0o777 & ~self.mode)
            try:
                listener.bind(self.path)
            finally:
                os.umask(earlier)
            if self.owner != (-1, -1):
                os.chown(self.path, *self.owner)
            listener.listen(_BACKLOG)
            with removed_at_the_end(self.path):
                yield listener

    def bound(self, port: int | None) -> UnixAddress:
        """Return this address unchanged, because its path is known before the socket is bound."""
        return self

    def facts(self) -> dict[str, str | int]:
        """Return the data that a script needs to connect; the ready file contains this data."""
        return {"unix": self.path}

    def _remove_stale(self) -> None:
        """Remove the socket file of a killed server; raise OSError if the file is in use, or is not a socket."""
        try:
            mode = os.stat(self.path).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise FileExistsError(errno.EEXIST, "a file that is not a socket is there")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            # Do not block: if a running server listens on the path, and its backlog is full, connect() would wait.
            client.setblocking(False)
            if client.connect_ex(self.path) != errno.ECONNREFUSED:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        os.unlink(self.path)


@contextlib.contextmanager
def removed_at_the_end(path: str) -> Iterator[None]:
    """Remove the file at the end of the block, unless another process has replaced it since the start of the block."""
    own = _identity(path)
    try:
        yield
    finally:
        # A file that cannot be removed must not make the exit fail. The process may have changed its user, the
        # directory may have been replaced, or its file system may now be read-only.
        with contextlib.suppress(OSError):
            if _identity(path) == own:
                os.unlink(path)


def _identity(path: str) -> tuple[int, ...]:
    # Include the modification time, because inode numbers are reused.
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_mtime_ns


@dataclass(frozen=True)
class InheritedAddress:
    """A listener that another process has opened, and that several processes may share."""

    descriptor: int
    address: HostAddress | UnixAddress

    def __str__(self) -> str:
        return str(self.address)

    @property
    def is_local(self) -> bool:
        """True if only this machine can connect."""
        return self.address.is_local

    def with_scheme(self, scheme: str) -> InheritedAddress:
        """Return this address with another URL scheme, such as https; the address of a unix socket has no scheme."""
        if isinstance(self.address, UnixAddress):
            return self
        return replace(self, address=replace(self.address, scheme=scheme))

    @contextlib.contextmanager
    def listener(self) -> Iterator[socket.socket]:
        """Yield the listener. The process that created a unix socket also removes the socket's file."""
        with socket.socket(fileno=self.descriptor) as listener:
            yield listener

    def bound(self, port: int | None) -> HostAddress | UnixAddress:
        """Return the address to which the listener is bound."""
        return self.address

    def facts(self) -> dict[str, str | int]:
        """Return the data that a script needs to connect; the ready file contains this data."""
        return self.address.facts()


@dataclass(frozen=True)
class OpenAddress:
    """An address that was bound before this process changed its user, because the new user may not be allowed to."""

    sock: socket.socket
    address: HostAddress | UnixAddress

    def __str__(self) -> str:
        return str(self.address)

    @property
    def is_local(self) -> bool:
        """True if only this machine can connect."""
        return self.address.is_local

    @contextlib.contextmanager
    def listener(self) -> Iterator[socket.socket]:
        """Call listen() on the socket, and yield the socket."""
        self.sock.listen(_BACKLOG)
        yield self.sock

    def bound(self, port: int | None) -> HostAddress | UnixAddress:
        """Return the address with the port to which the socket is bound."""
        return self.address.bound(port)

    def facts(self) -> dict[str, str | int]:
        """Return the data that a script needs to connect; the ready file contains this data."""
        return self.address.facts()


Address = HostAddress | UnixAddress | InheritedAddress | OpenAddress


@contextlib.contextmanager
def listening(address: HostAddress | UnixAddress) -> Iterator[socket.socket]:
    """Yield a listening socket for the address."""
    with bound_socket(address) as sock:
        sock.listen(_BACKLOG)
        yield sock


@contextlib.contextmanager
def bound_socket(address: HostAddress | UnixAddress) -> Iterator[socket.socket]:
    """Yield a socket that is bound to the address. The socket of a unix address already listens."""
    with address.listener() as listener:
        if isinstance(listener, socket.socket):
            yield listener
            return
        family = socket.AF_INET6 if ":" in listener[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(listener)
            yield sock


def inherited(descriptor: int, scheme: str = "http") -> InheritedAddress:
    """Return the address of an inherited listener."""
    with socket.socket(fileno=os.dup(descriptor)) as listener:
        name = listener.getsockname()
    if isinstance(name, tuple):
        return InheritedAddress(descriptor, HostAddress(name[0], name[1], scheme))
    # The name of an abstract socket begins with a NUL byte, which is conventionally written as "@".
    path = name.decode("utf-8", "replace") if isinstance(name, bytes) else name
    return InheritedAddress(descriptor, UnixAddress(path.replace("\0", "@")))


def parse(
    text: str, setting: str = "bind", scheme: str = "http", mode: int = 0o777, owner: tuple[int, int] = (-1, -1)
) -> HostAddress | UnixAddress | InheritedAddress:
    """Parse an address that a setting contains, as `HOST:PORT`, `[IPV6]:PORT`, `unix:PATH` or `fd:NUMBER`.

    `mode` and `owner` apply to a unix socket. Raises `OptionError` if a descriptor is not a listener.
    """
    kind, _, rest = text.partition(":")
    if kind == "unix":
        return UnixAddress(os.path.abspath(rest), mode, owner)
    if kind == "fd":
        return _given(int(rest), setting, scheme)
    host, _, port = text.rpartition(":")
    return HostAddress(host.strip("[]"), int(port), scheme)


def _given(descriptor: int, setting: str, scheme: str) -> InheritedAddress:
    try:
        os.set_inheritable(descriptor, False)
    except OSError as error:
        raise OptionError(f"{setting}: descriptor {descriptor} is not open ({error.strerror})") from None
    check_listener(Descriptor(descriptor, f"fd:{descriptor}"), setting)
    return inherited(descriptor, scheme)


def _is_ip(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ip_address(host))
    return False
