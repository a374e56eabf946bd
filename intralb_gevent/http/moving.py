"""Receives the connections that other processes move to a server, and sends its own connections to them.

Idle connections move when a process drains (`handover.py`), and connections with a request move to a process that has a
free slot (`rescue.py`). Only servers that share a listener have a `Moving` object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING

from ..hub.forks import close_copy
from ..policy.moving import Receiving, receiver_of
from ..siblings.links import Links
from ..siblings.receiver import Receiver
from ..siblings.source import Sibling, Siblings
from ..siblings.transfer import REQUEST, Transfer
from .connection import Connection
from .openfiles import OPEN_FILES

if TYPE_CHECKING:
    from .context import ServerContext

__all__ = ["Moving"]


class Moving:
    """The exchange of connections between one server and the servers of other processes on the same listener."""

    def __init__(self, shared: ServerContext, listener: int, siblings: Siblings) -> None:
        """Begin to receive connections; raises OSError if this process cannot listen for other processes."""
        self.shared = shared
        self.siblings = siblings
        self.moves = shared.intake.context.moves
        self.when_changed: Callable[[], None] | None = None
        """The function to call when a connection has moved or returned, or a process can receive more connections."""
        self.links = Links(shared.loop, listener, self)
        self.receiver = Receiver(shared.loop, listener, self)

    def __repr__(self) -> str:
        return f"<Moving {self.receiver!r}, {self.links!r}, {self.moves!r}>"

    def failed(self) -> None:
        """Log the current exception as a bug in this package."""
        self.shared.report_bug(self)

    # Receiving.

    def count(self) -> int:
        """Return the number of connections of this server."""
        return len(self.shared.connections)

    def refusal(self, transfer: Transfer) -> str:
        """Return the reason why the server cannot receive a moved connection; '' if it can."""
        if self.shared.closing:
            return "draining"
        beyond = self.count() >= self.shared.options.max_connections
        return "full" if beyond or transfer.sock.fileno() >= OPEN_FILES.clients_end else ""

    def adopt(self, transfer: Transfer) -> None:
        """Serve a connection that another process has moved here."""
        self.moves.received[transfer.kind] += 1
        self._serve(transfer)

    def _serve(self, transfer: Transfer) -> Connection:
        address = (transfer.host, transfer.port) if transfer.host else ""
        connection = Connection(self.shared, transfer.sock, address, transfer)
        self.shared.connections.add(connection)
        if transfer.data:
            connection.input.take(transfer.data)
        return connection

    # Sending.

    def processes(self, siblings: Iterable[Sibling]) -> list[Receiving]:
        """Return the known states of other processes, and connect to processes whose states are not known yet."""
        now = monotonic()
        links = [(each, self.links.connect(each.pid)) for each in siblings]
        return [
            Receiving(each.pid, each.generation, link.connections, link.accepts(now))
            for each, link in links
            if link is not None
        ]

    def send(self, connection: Connection, siblings: Iterable[Sibling]) -> bool:
        """Send an idle connection to the most suitable process; return False if none can receive it now."""
        pid = receiver_of(self.processes(siblings))
        if pid is None or not self.links.send(pid, connection.transfer()):
            return False
        self.shared.in_transit += 1
        connection.detach()
        return True

    def send_request(self, pid: int, connection: Connection, data: bytes) -> bool:
        """Send a connection with its only request, whose bytes are `data`; return False if it cannot be sent."""
        transfer = connection.transfer()
        transfer.kind, transfer.data = REQUEST, data
        if not self.links.send(pid, transfer):
            return False
        self.shared.in_transit += 1
        connection.detach()
        return True

    def changed(self) -> None:
        """Report that another process can now receive connections, or no longer can."""
        if self.when_changed is not None:
            self.when_changed()

    def taken(self, transfer: Transfer) -> None:
        """Record that another process has taken a connection."""
        self.moves.moved[transfer.kind] += 1
        self.shared.in_transit -= 1
        self.shared.look_whether_all_closed()
        self.changed()

    def returned(self, transfer: Transfer, reason: str) -> None:
        """Serve a connection again, because the other process has not taken the connection."""
        self.moves.returned[reason] += 1
        self.shared.in_transit -= 1
        connection = self._serve(transfer)
        connection.output.copied = True
        if self.shared.closing:
            connection.close_if_idle()

    # Ending.

    def close(self) -> None:
        """End all links; connections that no other process has taken return to this server."""
        self.receiver.close()
        self.links.close()

    def isolate(self) -> None:
        """In a child process that a handler has forked, close the inherited copies of all sockets."""
        self.receiver.isolate(close_copy)
        self.links.isolate(close_copy)
