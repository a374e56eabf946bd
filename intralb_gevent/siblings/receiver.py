"""The receiving side of moves: takes connections that other processes send."""

from __future__ import annotations

import _socket
import os
from collections.abc import Callable
from typing import Any, Protocol

from .sockets import accept, listen, receive, send
from .transfer import IDLE, MAX_DATA_BYTES, REQUEST, Message, Transfer

__all__ = ["Receiver", "Recipient"]

_KINDS = (IDLE, REQUEST)


class Recipient(Protocol):
    """The server that serves the received connections; its methods are called in the hub."""

    def count(self) -> int:
        """Return the number of connections of this server."""

    def refusal(self, transfer: Transfer) -> str:
        """Return the reason why the server cannot take a connection; '' if it can take the connection."""

    def adopt(self, transfer: Transfer) -> None:
        """Serve a connection, which belongs to this process now."""

    def failed(self) -> None:
        """Log the current exception as a bug in this package."""


class Receiver:
    """Listens for other processes, and answers each connection that they send with `taken` or `refused`."""

    def __init__(self, loop: Any, listener: int, recipient: Recipient) -> None:
        """Begin to listen; raises OSError if listening fails."""
        self._loop = loop
        self._recipient = recipient
        self._sock: _socket.socket | None = listen(listener)
        self._acceptor: Any = loop.io(self._sock.fileno(), 1, ref=False)
        self._acceptor.start(self._on_connection)
        self._readers: dict[_socket.socket, Any] = {}

    def __repr__(self) -> str:
        return f"<Receiver {'stopped' if self._sock is None else 'ready'}, {len(self._readers)} senders>"

    @property
    def ready(self) -> bool:
        """True until `stop` is called."""
        return self._sock is not None

    def _on_connection(self) -> None:
        try:
            sender = None if self._sock is None else accept(self._sock)
            if sender is not None:
                reader = self._readers[sender] = self._loop.io(sender.fileno(), 1, ref=False)
                reader.start(self._on_readable, sender)
                self._send_state(sender)
        except Exception:
            self._recipient.failed()

    def _send_state(self, sender: _socket.socket) -> None:
        state = {"kind": "state", "ready": self.ready, "connections": self._recipient.count()}
        if not _answered(sender, Message(state)):
            self._forget(sender)

    def _on_readable(self, sender: _socket.socket) -> None:
        try:
            while sender in self._readers:
                if not self._receive(sender):
                    return
        except Exception:
            self._recipient.failed()
            self._forget(sender)

    def _receive(self, sender: _socket.socket) -> bool:
        """Handle one packet; return False if no packet has arrived."""
        try:
            packet, descriptor = receive(sender)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            packet, descriptor = b"", None
        if descriptor is not None:
            self._take(sender, Message.decoded(packet), descriptor)
        elif packet:
            # The descriptor did not arrive, because this process has too many open files.
            _answered(sender, _refused(Message.decoded(packet), "descriptors"))
        else:
            self._forget(sender)
        return True

    def _take(self, sender: _socket.socket, message: Message, descriptor: int) -> None:
        transfer: Transfer | None
        try:
            sock = _socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)
            _answered(sender, _refused(message, "not_understood"))
            return
        try:
            transfer = Transfer.received(message, sock)
        except (TypeError, ValueError):
            transfer = None
        reason = "not_understood" if transfer is None else self._refusal(transfer)
        if reason or transfer is None:
            sock.close()
            _answered(sender, _refused(message, reason))
        # Until this answer has been sent, the connection belongs to the sender.
        elif _answered(sender, Message({"kind": "taken", "number": message.number})):
            sock.setblocking(False)
            self._recipient.adopt(transfer)
        else:
            sock.close()

    def _refusal(self, transfer: Transfer) -> str:
        if transfer.kind not in _KINDS or len(transfer.data) > MAX_DATA_BYTES:
            return "not_understood"
        return self._recipient.refusal(transfer) if self.ready else "draining"

    def _forget(self, sender: _socket.socket) -> None:
        reader = self._readers.pop(sender, None)
        if reader is not None:
            reader.stop()
            reader.close()
        sender.close()

    def stop(self) -> None:
        """Refuse all further connections, because this process drains. Call this method before the client listener is
        closed."""
        if self._sock is None:
            return
        self._acceptor.stop()
        self._acceptor.close()
        self._sock.close()
        self._sock = None
        for sender in list(self._readers):
            self._send_state(sender)

    def close(self) -> None:
        """Close the links to all senders; the senders then take back the connections that this process has not
        taken."""
        self.stop()
        for sender in list(self._readers):
            self._forget(sender)

    def isolate(self, close_copy: Callable[[Any], object]) -> None:
        """Close the copies of all sockets in a process that a handler has forked."""
        for sock in filter(None, (self._sock, *self._readers)):
            close_copy(sock)
        self._readers.clear()


def _refused(message: Message, reason: str) -> Message:
    return Message({"kind": "refused", "number": message.number, "reason": reason})


def _answered(sender: _socket.socket, message: Message) -> bool:
    """Send a message to `sender`; return False if sending fails."""
    try:
        send(sender, message.encoded())
    except OSError:
        return False
    return True
