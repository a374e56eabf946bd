"""A client of the ledger application: sends requests, parses responses strictly, and records which requests ran."""

from __future__ import annotations

import random
import re
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from .ledger import filled
from .runs import Faults

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r\n")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*?)[ \t]*\r\n")
_MOST_LINE_BYTES: Final = 65536
_PIECE_BYTES: Final = 65536
_WITHOUT_BODY: Final = (204, 304)


class CutError(Exception):
    """Raised if a connection ends within a response."""


class MalformedError(Exception):
    """Raised if received data is not valid HTTP."""


@dataclass
class Answer:
    """One complete response."""

    status: int
    fields: dict[str, str]
    """Header fields, by lower-case name."""
    body: bytes

    @property
    def closes(self) -> bool:
        """True if the connection ends after this response."""
        return self.fields.get("connection", "").lower() == "close"


class Reader:
    """Reads responses from a connection. Its methods can raise `CutError`, `MalformedError` or `TimeoutError`."""

    def __init__(self, connection: socket.socket, pause: Callable[[], None] = lambda: None) -> None:
        self._file = connection.makefile("rb")
        self._pause = pause

    def answer(self, method: str = "GET") -> Answer | None:
        """Return the next final response to a `method` request, or None at the end of the connection."""
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
        """Return the next line, or the part of it that arrived before the connection ended."""
        try:
            return self._file.readline(_MOST_LINE_BYTES)
        except ConnectionError:
            raise CutError("reset") from None

    def close(self) -> None:
        """Close the file object; the owner of the socket closes the socket."""
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


_MAYBE: Final = 0
"""State of a request that has run once or never; the client cannot know which."""
_RUN: Final = 1
_NOT_RUN: Final = 2
_SHOWN: Final = 5


class Book:
    """A record of one client's requests, by request number."""

    def __init__(self, client: int) -> None:
        self.client = client
        self._known = bytearray()
        self.answered = 0
        """Number of requests that the application answered completely."""

    def next(self) -> int:
        """Add a request; return its number."""
        self._known.append(_MAYBE)
        return len(self._known) - 1

    def was_run(self, number: int) -> None:
        """Record that the application ran for a request: a response began, or the balancer aborted the request."""
        self._known[number] = _RUN

    def was_answered(self, number: int) -> None:
        """Record that the application has answered a request completely."""
        self.was_run(number)
        self.answered += 1

    def was_not_run(self, number: int) -> None:
        """Record that, according to the server, the application did not run for a request."""
        self._known[number] = _NOT_RUN

    def disagreements(self, ledger: bytes) -> Iterator[str]:
        """Yield a sentence for each request whose number of starts in `ledger` is wrong."""
        if len(ledger) > len(self._known):
            yield f"the ledger has a request {self.client}.{len(ledger) - 1}, which was never sent"
        allowed = {_MAYBE: (0, 1), _RUN: (1,), _NOT_RUN: (0,)}
        runs = ledger.ljust(len(self._known), b"\0")
        wrong = [number for number, known in enumerate(self._known) if runs[number] not in allowed[known]]
        for number in wrong[:_SHOWN]:
            expected = " or ".join(map(str, allowed[self._known[number]]))
            yield f"request {self.client}.{number} was run {runs[number]} times, not {expected}"
        if len(wrong) > _SHOWN:
            yield f"so were {len(wrong) - _SHOWN} more requests of client {self.client}"


_PATIENCE_SECONDS: Final = 45.0
"""Timeout of the client's socket, in seconds: longer than any timeout of the server."""
_AT_ONCE: Final = struct.pack("ii", 1, 0)


def head(target: str, method: str = "GET", fields: str = "") -> bytes:
    """Return the head of a request, encoded."""
    return f"{method} {target} HTTP/1.1\r\nHost: ledger\r\n{fields}\r\n".encode()


class Line:
    """A connection, with a reader for its responses."""

    def __init__(self, port: int, receive_bytes: int = 0) -> None:
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(_PATIENCE_SECONDS)
        self.socket.connect(("127.0.0.1", port))
        self.reader = Reader(self.socket)

    def close(self) -> None:
        """Close the connection; if received data is unread, the kernel resets the connection."""
        self.reader.close()
        self.socket.close()

    def reset(self) -> None:
        """Close the connection by a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.close()


class Client:
    """One of many clients, each of which has a separate random seed."""

    def __init__(self, number: int, seed: int, port: int, faults: Faults) -> None:
        self.random = random.Random(f"{seed} {number}")
        self.book = Book(number)
        self.port = port
        self.faults = faults
        self.seen: Counter[str] = Counter()
        self._kept: Line | None = None

    def target(self, path: str, **asked: object) -> tuple[int, str]:
        """Record a request in the ledger; return its number and its target."""
        number = self.book.next()
        query = "".join(f"&{name}={value}" for name, value in asked.items())
        return number, f"{path}?client={self.book.client}&number={number}{query}"

    def identity(self, number: int) -> str:
        """Return the identity that the response to a request must carry."""
        return f"{self.book.client}.{number}"

    def filled(self, number: int, size: int = 40) -> bytes:
        """Return the expected response body for a request."""
        return filled(self.identity(number), size)

    def open(self, receive_bytes: int = 0) -> Line:
        """Open a connection for one step, which must close the connection."""
        return Line(self.port, receive_bytes)

    def kept(self) -> Line:
        """Return the connection that steps reuse; open a new one if necessary."""
        if self._kept is None:
            self._kept = self.open()
        return self._kept

    def close(self) -> None:
        """Close the reused connection."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def answer(self, line: Line, number: int, path: str, otherwise: str = "") -> Answer | None:
        """Read a response. If there is none, return None, and add a fault unless `otherwise` is "cut"."""
        try:
            answer = line.reader.answer()
        except (CutError, MalformedError, TimeoutError) as error:
            answer, why = None, f"{type(error).__name__}: {error}"
        else:
            why = "the connection was closed"
        if answer is None:
            self.seen["cut"] += 1
            self.faults.require(otherwise == "cut" and "Malformed" not in why, f"no answer to {path}: {why}")
        return answer

    def judge(self, answer: Answer, number: int, path: str, body: bytes, otherwise: int = 0) -> None:
        """Record a response; add a fault unless it is correct, a rejection, or has the status `otherwise`."""
        self.seen[str(answer.status)] += 1
        if answer.status in (429, 503):
            if answer.fields.get("x-intralb-executed") == "0":
                self.book.was_not_run(number)
            return
        if answer.status == otherwise:
            return
        identity = answer.fields.get("x-ledger")
        if answer.status != 200 or identity != self.identity(number):
            self.faults.add(f"{path}: answered {answer.status} for {identity}, {answer.body[:80]!r}")
        elif answer.body != body:
            self.faults.add(f"{path}: the body has {len(answer.body)} bytes, {answer.body[:60]!r}, not {len(body)}")
        self.book.was_answered(number)
