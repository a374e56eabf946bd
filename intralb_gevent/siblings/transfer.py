"""One connection on its way to another process, and the messages between the two processes.

A message is one packet: a byte with the protocol's version, a line of JSON, and the bytes that were already read from
the client. During a reload, the two processes can run different versions of this package. Therefore, a receiver ignores
unknown fields, and refuses messages of a later protocol version or of an unknown kind. A new field that receivers must
not ignore requires a new protocol version.
"""

from __future__ import annotations

import _socket
import json
import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

__all__ = ["IDLE", "MAX_DATA_BYTES", "MAX_MESSAGE_BYTES", "REQUEST", "VERSION", "Message", "Transfer"]

VERSION: Final = 1

IDLE: Final = "idle"
"""Kind of a message that passes a connection without a request."""

REQUEST: Final = "request"
"""Kind of a message that passes a connection and the bytes of one whole request."""

MAX_DATA_BYTES: Final = 64 * 1024
"""Maximum number of bytes in a message that were already read from the client."""

MAX_MESSAGE_BYTES: Final = MAX_DATA_BYTES + 4096


class Message(NamedTuple):
    """A message between two processes: its fields, and the bytes that follow them."""

    fields: dict[str, Any]
    data: bytes = b""
    version: int = VERSION

    @property
    def kind(self) -> str:
        """The kind of the message; '' if the message has a later protocol version, or has no kind."""
        kind = self.fields.get("kind", "")
        return kind if isinstance(kind, str) and self.version <= VERSION else ""

    @property
    def number(self) -> int:
        """The number of the transfer to which the message belongs; 0 if the message has no number."""
        number = self.fields.get("number", 0)
        return number if isinstance(number, int) else 0

    def encoded(self) -> bytes:
        """Return the message as one packet."""
        line = json.dumps(self.fields, separators=(",", ":")).encode("ascii")
        return b"%c%b\n%b" % (self.version, line, self.data)

    @classmethod
    def decoded(cls, packet: bytes) -> Message:
        """Return the message in a packet; if the packet is malformed, the message has no fields."""
        line, _, data = packet[1:].partition(b"\n")
        try:
            fields = json.loads(line)
        except ValueError:
            fields = {}
        return cls(fields if isinstance(fields, dict) else {}, data, packet[0] if packet else 0)


@dataclass(slots=True)
class Transfer:
    """A connection that moves to another process.

    The sender keeps the socket open until the receiver confirms that it has taken the connection. The receiver does not
    read from the socket before it has confirmed the transfer.
    """

    sock: _socket.socket
    host: str = ""
    """The address of the client, or of its proxy; empty for a Unix socket."""
    port: str = ""
    kind: str = IDLE
    begun: bool = False
    """True if earlier requests were received on this connection."""
    identified: bool = False
    """True if `host` and `port` come from a PROXY header that was already read, or if no PROXY header precedes the
    requests."""
    expires: float = math.inf
    """End of the read timeout, in `time.monotonic()` seconds; all processes of a machine share this clock."""
    data: bytes = b""
    """The bytes of the request; empty for an idle connection."""

    def message(self, number: int) -> Message:
        """Return the message that sends this connection; the receiver repeats `number` in its answer."""
        fields = {
            "kind": self.kind,
            "number": number,
            "host": self.host,
            "port": self.port,
            "begun": self.begun,
            "identified": self.identified,
            "expires": None if self.expires == math.inf else self.expires,
        }
        return Message(fields, self.data)

    @classmethod
    def received(cls, message: Message, sock: _socket.socket) -> Transfer:
        """Return the connection that a message describes; raises TypeError or ValueError if a field is malformed."""
        fields = message.fields
        expires = fields.get("expires")
        return cls(
            sock,
            str(fields.get("host", "")),
            str(fields.get("port", "")),
            message.kind,
            bool(fields.get("begun")),
            bool(fields.get("identified")),
            math.inf if expires is None else float(expires),
            message.data,
        )
