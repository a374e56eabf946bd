"""Read the PROXY protocol: a header with the client's address that a proxy sends before the client's own bytes.

This module supports versions 1 and 2, as in "The PROXY protocol, Versions 1 & 2" by Willy Tarreau,
https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt. The section numbers in this module are those of the
specification. The caller checks whether the peer is trusted.
"""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from .trusted import read_address, unmapped

__all__ = ["MAX_BYTES", "ProxyHeader"]

MAX_BYTES: Final = 4096
"""Maximum bytes of a version 2 header, as in nginx; a longer header is rejected. The length field allows 64 KB."""

_RECEIVE_BYTES: Final = 64 * 1024
"""Maximum bytes that are peeked at to find the end of a PROXY header."""

_V1_MAX_BYTES: Final = 107
"""Maximum bytes of a version 1 header, including its CRLF (section 2.1)."""

_V1_START: Final = b"PROXY "
_V2_START: Final = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED_BYTES: Final = 16
_V2_LOCAL: Final = 0x20
"""The byte for version 2 and command LOCAL: the proxy is the client, as in a health check; addresses are ignored."""

_V2_PROXY: Final = 0x21
"""The byte for version 2 and command PROXY: the address of the client follows."""

_V2_ADDRESS_BYTES: Final = (0, 12, 36, 216)
"""Size of the addresses in bytes for each family (section 2.2): unspecified, IPv4, IPv6, unix."""

_PORT: Final = re.compile(r"0|[1-9][0-9]{0,4}").fullmatch


class ProxyHeader:
    """The parser of a PROXY header, which may be received in any pieces.

    `feed` returns True once the header is complete. `source` then contains the client's address and port as text, and
    `rest` the data after the header. If the header contains no address (LOCAL, UNKNOWN, unix sockets), `source` is
    None, and the address of the socket applies. `feed` raises ValueError as soon as it recognizes a malformed header;
    the connection must then be closed. The error message contains only numbers from the header, no text. `feed` must
    not be called again after it has returned True or raised an error.
    """

    __slots__ = ("_received", "rest", "source")

    def __init__(self) -> None:
        self._received = b""
        self.rest = b""
        self.source: tuple[str, str] | None = None

    def __repr__(self) -> str:
        return f"<ProxyHeader: {len(self._received)} bytes received, source {self.source}>"

    @property
    def untouched(self) -> bool:
        """True until the first byte is received."""
        return not self._received

    def receive(self, sock: Any) -> bool:
        """Read the header and not one byte more, as a TLS handshake may follow; return whether the header is complete.

        Raises OSError as `recv` does, EOFError at the end of the input, and ValueError as `feed` does.
        """
        data = sock.recv(_RECEIVE_BYTES, socket.MSG_PEEK)
        if not data:
            raise EOFError
        complete = self.feed(data)
        sock.recv(len(data) - len(self.rest))
        return complete

    def feed(self, data: bytes) -> bool:
        """Add received bytes; return whether the header is complete."""
        self._received += data
        received = self._received
        end = _v1_end(received) if received.startswith(_V1_START) else _v2_end(received)
        if end is None:
            return False
        header, self.rest, self._received = received[:end], received[end:], b""
        self.source = _v1_source(header) if header.startswith(_V1_START) else _v2_source(header)
        return True


def _v1_end(received: bytes) -> int | None:
    line = received.find(b"\r\n", 0, _V1_MAX_BYTES)
    if line < 0 and len(received) >= _V1_MAX_BYTES:
        raise ValueError(f"the PROXY line does not end within {_V1_MAX_BYTES} bytes")
    return None if line < 0 else line + 2


def _v1_source(header: bytes) -> tuple[str, str] | None:
    fields = header[:-2].decode("latin-1").split(" ")
    if fields[1] == "UNKNOWN":
        return None
    if len(fields) != 6 or fields[1] not in ("TCP4", "TCP6"):
        raise ValueError("the PROXY line is not 'PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT' nor 'PROXY UNKNOWN'")
    source, _ = (_v1_address(text, fields[1]) for text in fields[2:4])
    if not all(_PORT(port) and int(port) <= 65535 for port in fields[4:]):
        raise ValueError("a port of the PROXY line is not a number from 0 to 65535")
    return source, fields[4]


def _v1_address(text: str, protocol: str) -> str:
    try:
        if (":" in text) == (protocol == "TCP6"):
            return str(read_address(text))
    except ValueError:
        pass
    raise ValueError(f"an address of the PROXY line is not what {protocol} says it is")


def _v2_end(received: bytes) -> int | None:
    if not received.startswith(_V2_START):
        if _V2_START.startswith(received) or _V1_START.startswith(received):
            return None
        raise ValueError("the connection does not begin with a PROXY header")
    if len(received) < _V2_FIXED_BYTES:
        return None
    end = _V2_FIXED_BYTES + int.from_bytes(received[14:16], "big")
    _check_v2(received[12], received[13], end)
    return end if len(received) >= end else None


def _check_v2(version_and_command: int, family_and_transport: int, end: int) -> None:
    if version_and_command not in (_V2_LOCAL, _V2_PROXY):
        raise ValueError(f"the PROXY header has version and command {version_and_command:#x}; known are 0x20 and 0x21")
    if end > MAX_BYTES:
        raise ValueError(f"the PROXY header is {end} bytes long; at most {MAX_BYTES} are allowed")
    family, transport = divmod(family_and_transport, 16)
    if version_and_command == _V2_LOCAL:
        return
    if family > 3 or transport > 2:
        raise ValueError(f"the PROXY header has address family {family} and transport {transport}, which do not exist")
    if end < _V2_FIXED_BYTES + _V2_ADDRESS_BYTES[family]:
        raise ValueError("the PROXY header is too short for its addresses")


def _v2_source(header: bytes) -> tuple[str, str] | None:
    family, transport = divmod(header[13], 16)
    if header[12] == _V2_LOCAL or transport == 0:
        return None
    addresses = header[_V2_FIXED_BYTES:]
    # The addresses are: source address, destination address, source port, destination port.
    if family == 1:
        return str(IPv4Address(addresses[:4])), str(int.from_bytes(addresses[8:10], "big"))
    if family == 2:
        return str(unmapped(IPv6Address(addresses[:16]))), str(int.from_bytes(addresses[32:34], "big"))
    return None
