"""Reads answers from a connection strictly, one after the other, as they were pipelined.

Decides what a whole answer is. It must not know what was asked.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["Answer", "CutError", "MalformedError", "Reader"]

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r\n")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*?)[ \t]*\r\n")
_MOST_LINE_BYTES: Final = 65536
_PIECE_BYTES: Final = 65536
_WITHOUT_BODY: Final = (204, 304)


class CutError(Exception):
    """The connection has ended within an answer."""


class MalformedError(Exception):
    """What came is no HTTP."""


@dataclass
class Answer:
    """One answer, whole."""

    status: int
    fields: dict[str, str]
    """By name in lower case."""
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether the connection ends with it."""
        return self.fields.get("connection", "").lower() == "close"


class Reader:
    """What comes from a connection. All methods raise `CutError`, `MalformedError` and `TimeoutError`."""

    def __init__(self, connection: socket.socket, pause: Callable[[], None] = lambda: None) -> None:
        self._file = connection.makefile("rb")
        self._pause = pause

    def answer(self, method: str = "GET") -> Answer | None:
        """Return the next answer to a request with `method`, without interim ones; None at the end."""
        while True:
            status, fields = self._head()
            if not status:
                return None
            if status >= 200 or status == 101:
                break
        if method == "HEAD" or status in _WITHOUT_BODY or status == 101:
            return Answer(status, fields, b"")
        return Answer(status, fields, self._body(fields))

    def line(self) -> bytes:
        """Return the next line, or what there is of it at the end."""
        try:
            return self._file.readline(_MOST_LINE_BYTES)
        except ConnectionError:
            raise CutError("reset") from None

    def close(self) -> None:
        """Close the file; the socket is its owner's."""
        self._file.close()

    def _head(self) -> tuple[int, dict[str, str]]:
        first = self.line()
        if not first:
            return 0, {}
        if not (found := _STATUS_LINE.fullmatch(first)):
            raise MalformedError(f"{first[:80]!r} is no status line")
        fields: dict[str, str] = {}
        while (line := self.line()) != b"\r\n":
            if not line.endswith(b"\n"):
                raise CutError("within the head")
            if not (field := _FIELD.fullmatch(line)):
                raise MalformedError(f"{line[:80]!r} is no field")
            fields[field[1].decode().lower()] = field[2].decode("latin-1")
        return int(found[1]), fields

    def _body(self, fields: dict[str, str]) -> bytes:
        if fields.get("transfer-encoding", "").lower() == "chunked":
            return self._chunks()
        if "content-length" in fields:
            return self._exactly(int(fields["content-length"]))
        return self._rest()

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        while True:
            line = self.line()
            if not line.endswith(b"\n"):
                raise CutError("between chunks")
            if not re.fullmatch(rb"[0-9a-fA-F]+\r\n", line):
                raise MalformedError(f"{line[:80]!r} is no size of a chunk")
            size = int(line, 16)
            parts.append(self._exactly(size))
            if self._exactly(2) != b"\r\n":
                raise MalformedError("a chunk has no line end")
            if not size:
                return b"".join(parts)

    def _exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            try:
                part = self._file.read1(min(_PIECE_BYTES, size - len(parts)))
            except ConnectionError:
                part = b""
            if not part:
                raise CutError(f"after {len(parts)} of {size} bytes")
            parts += part
            self._pause()
        return bytes(parts)

    def _rest(self) -> bytes:
        try:
            return self._file.read()
        except ConnectionError:
            raise CutError("reset") from None
