"""The sending side of moves: passes connections to other processes, and takes back connections that no process has
taken.

A connection belongs to the sender until the receiver has sent a confirmation. Before the confirmation, the receiver
does not read from the connection. If a link breaks before the sender has read a confirmation, the sender first shuts
the link down, so that the receiver can send no further confirmation. The sender then reads the confirmations that are
already in the link's buffer, and takes back all other connections. Therefore, exactly one process serves each
connection, even if a receiver is killed or blocked at any moment.
"""

from __future__ import annotations

import _socket
import contextlib
from collections.abc import Callable, Iterator
from itertools import count
from time import monotonic
from typing import Any, Final, Protocol

from .sockets import connect, receive, send
from .transfer import Message, Transfer

__all__ = ["Link", "Links", "Sender"]

ANSWER_SECONDS: Final = 1.0
"""Seconds within which a process must answer. The event loop of a process that does not answer in time is blocked, so
the sender takes back the connections."""

AVOIDED_SECONDS: Final = 1.0
"""Seconds for which no connection is sent to a process that has not answered, or has refused a connection."""

MAX_WAITING: Final = 32
"""Maximum number of unanswered connections sent to one process, so that only a few connections wait if the process is
blocked."""


class Sender(Protocol):
    """The owner of the links; its methods are called in the hub."""

    def changed(self) -> None:
        """React to a process that has become able, or unable, to receive connections."""

    def taken(self, transfer: Transfer) -> None:
        """Record that another process has taken a connection."""

    def returned(self, transfer: Transfer, reason: str) -> None:
        """Serve a connection again, because no other process has taken it."""

    def failed(self) -> None:
        """Log the current exception as a bug in this package."""


class Link:
    """A socket to one process, and the connections that were sent through this socket and are not answered yet."""

    def __init__(self, loop: Any, sock: _socket.socket, pid: int, sender: Sender) -> None:
        self.pid = pid
        self.connections = 0
        """Estimated number of connections of the process: the number in its last report, plus the connections sent
        since then."""
        self.ready = False
        """True while the process can receive connections."""
        self.closed = False
        self.avoided_until = 0.0
        self._sock = sock
        self._sender = sender
        self._waiting: dict[int, Transfer] = {}
        self._numbers = count(1)
        self._heard = monotonic()
        """Start of the wait for the next answer, in `time.monotonic()` seconds; meaningless while no answer is due."""
        self._greeted = False
        self._reader = loop.io(sock.fileno(), 1, ref=False)
        self._reader.start(self.look)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "ready" if self.ready else "not ready"
        return f"<Link to process {self.pid}: {state}, {len(self._waiting)} waiting>"

    @property
    def waiting(self) -> int:
        """Number of connections that were sent through this link and are not answered yet."""
        return len(self._waiting)

    def accepts(self, now: float) -> bool:
        """Return whether a connection can be sent now."""
        return self.ready and not self.closed and len(self._waiting) < MAX_WAITING and now >= self.avoided_until

    def owes_answer(self) -> bool:
        """Return whether the process must still send an answer, or its first report."""
        return not self.closed and (bool(self._waiting) or not self._greeted)

    def is_silent(self, now: float) -> bool:
        """Return whether the process has owed an answer for more than `ANSWER_SECONDS`."""
        return self.owes_answer() and now - self._heard > ANSWER_SECONDS

    def send(self, transfer: Transfer) -> bool:
        """Send a connection; return False, and avoid the process for a while, if the connection cannot be sent now."""
        number = next(self._numbers)
        try:
            send(self._sock, transfer.message(number).encoded(), transfer.sock.fileno())
        except OSError:
            self.avoided_until = monotonic() + AVOIDED_SECONDS
            return False
        if not self._waiting:
            self._heard = monotonic()
        self._waiting[number] = transfer
        self.connections += 1
        return True

    def look(self) -> None:
        """Read all answers that have arrived."""
        try:
            while not self.closed:
                packet = self._packet()
                if packet is None:
                    return
                if not packet:
                    self.close("ended")
                    return
                self._take(Message.decoded(packet))
        except Exception:
            self._sender.failed()
            self.close("bug")

    def _packet(self) -> bytes | None:
        """Return the next packet, which is empty if the link is broken; None if no packet has arrived."""
        try:
            return receive(self._sock)[0]
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

    def _take(self, message: Message) -> None:
        self._heard = monotonic()
        kind = message.kind
        if kind == "state":
            self._greeted = True
            self.ready = bool(message.fields.get("ready"))
            self.connections = int(message.fields.get("connections", 0)) + len(self._waiting)
            self._sender.changed()
            return
        transfer = self._waiting.pop(message.number, None)
        if transfer is None:
            return
        if kind == "taken":
            transfer.sock.close()
            self._sender.taken(transfer)
        else:
            self.connections -= 1
            self.avoided_until = self._heard + AVOIDED_SECONDS
            self._sender.returned(transfer, str(message.fields.get("reason", "refused")))

    def close(self, reason: str) -> None:
        """Close this link, unless it is closed already, and take back the connections that the process has not
        taken."""
        if self.closed:
            return
        self.closed, self.ready = True, False
        self._reader.stop()
        self._reader.close()
        self._read_last()
        self._sock.close()
        waiting, self._waiting = self._waiting, {}
        for transfer in waiting.values():
            self._sender.returned(transfer, reason)
        self._sender.changed()

    def _read_last(self) -> None:
        """Prevent further confirmations, and read the confirmations that were already sent."""
        # An error means that the other process has closed the link, so that process can send no more confirmations
        # either.
        with contextlib.suppress(OSError):
            self._sock.shutdown(_socket.SHUT_RDWR)
        while packet := self._packet():
            message = Message.decoded(packet)
            if message.kind == "taken" and (transfer := self._waiting.pop(message.number, None)) is not None:
                transfer.sock.close()
                self._sender.taken(transfer)

    def isolate(self) -> list[_socket.socket]:
        """Mark this link as closed in a process that a handler has forked; return the sockets that must be closed
        there."""
        self.closed = True
        return [self._sock, *(each.sock for each in self._waiting.values())]


class Links:
    """The links of one listener to the other processes that accept from it."""

    def __init__(self, loop: Any, listener: int, sender: Sender) -> None:
        self._loop = loop
        self._listener = listener
        self._sender = sender
        self._links: dict[int, Link] = {}
        self._avoided: dict[int, float] = {}
        """Maps the id of each process that has not answered to the time until which `connect` does not try again."""
        self._timer: Any = None

    def __repr__(self) -> str:
        return f"<Links {list(self._links.values())}>"

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._links.values()))

    @property
    def waiting(self) -> int:
        """Number of connections that were sent to other processes and are not answered yet."""
        return sum(link.waiting for link in self._links.values())

    def connect(self, pid: int) -> Link | None:
        """Return the link to a process, which may not be ready yet; None if the process cannot be reached."""
        link = self._links.get(pid)
        if link is not None and not link.closed:
            return link
        if monotonic() < self._avoided.get(pid, 0.0):
            return None
        try:
            sock = connect(self._listener, pid)
        except OSError:
            return None
        link = self._links[pid] = Link(self._loop, sock, pid, self._sender)
        self._watch()
        return link

    def send(self, pid: int, transfer: Transfer) -> bool:
        """Send a connection over the existing link to a process; return False if the connection cannot be sent now."""
        link = self._links.get(pid)
        sent = link is not None and link.accepts(monotonic()) and link.send(transfer)
        self._watch()
        return sent

    def _watch(self) -> None:
        """Check at intervals whether processes answer, until no answer is due."""
        if self._timer is None:
            self._timer = self._loop.timer(ANSWER_SECONDS / 4, ANSWER_SECONDS / 4, ref=False)
        if not self._timer.active:
            self._timer.start(self._look)

    def _look(self) -> None:
        try:
            self._close_silent(monotonic())
        except Exception:
            self._sender.failed()

    def _close_silent(self, now: float) -> None:
        for link in self:
            if link.is_silent(now):
                # Read first, because answers may have arrived while this event loop was blocked.
                link.look()
            if link.is_silent(now):
                self._avoided[link.pid] = now + AVOIDED_SECONDS
                link.close("silent")
            if link.closed and self._links.get(link.pid) is link:
                del self._links[link.pid]
        if not any(link.owes_answer() for link in self):
            self._timer.stop()

    def close(self) -> None:
        """Close all links, and take back the connections that no process has taken."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        for link in self:
            link.close("stopped")
        self._links.clear()

    def isolate(self, close_copy: Callable[[Any], object]) -> None:
        """Close the copies of all sockets in a process that a handler has forked."""
        for link in self:
            for sock in link.isolate():
                close_copy(sock)
