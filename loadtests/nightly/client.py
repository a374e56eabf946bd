"""A client of the ledger: sends requests, and judges their answers.

Decides what an answer must be. It must not know in which order things are asked; `steps` does.
"""

from __future__ import annotations

import random
import socket
import struct
from collections import Counter
from typing import Final

from .books import Book
from .faults import Faults
from .ledger import filled
from .reading import Answer, CutError, MalformedError, Reader

__all__ = ["Client", "Line", "head"]

_PATIENCE_SECONDS: Final = 45.0
"""Longer than anything on the server's side may take."""
_AT_ONCE: Final = struct.pack("ii", 1, 0)


def head(target: str, method: str = "GET", fields: str = "") -> bytes:
    """Return the head of a request."""
    return f"{method} {target} HTTP/1.1\r\nHost: ledger\r\n{fields}\r\n".encode()


class Line:
    """A connection, with what is read from it."""

    def __init__(self, port: int, receive_bytes: int = 0) -> None:
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(_PATIENCE_SECONDS)
        self.socket.connect(("127.0.0.1", port))
        self.reader = Reader(self.socket)

    def close(self) -> None:
        """Close it in order, or by a reset if something is unread."""
        self.reader.close()
        self.socket.close()

    def reset(self) -> None:
        """Close it by a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.close()


class Client:
    """One of many; all that is by chance comes from its own seed."""

    def __init__(self, number: int, seed: int, port: int, faults: Faults) -> None:
        self.random = random.Random(f"{seed} {number}")
        self.book = Book(number)
        self.port = port
        self.faults = faults
        self.seen: Counter[str] = Counter()
        self._kept: Line | None = None

    def target(self, path: str, **asked: object) -> tuple[int, str]:
        """Enter a request into the book; return its number and its target."""
        number = self.book.next()
        query = "".join(f"&{name}={value}" for name, value in asked.items())
        return number, f"{path}?client={self.book.client}&number={number}{query}"

    def identity(self, number: int) -> str:
        """Return what the answer to a request must carry."""
        return f"{self.book.client}.{number}"

    def filled(self, number: int, size: int = 40) -> bytes:
        """Return the body of such an answer."""
        return filled(self.identity(number), size)

    def open(self, receive_bytes: int = 0) -> Line:
        """Open a connection for one step; the step closes it."""
        return Line(self.port, receive_bytes)

    def kept(self) -> Line:
        """Return the connection that is kept from step to step."""
        if self._kept is None:
            self._kept = self.open()
        return self._kept

    def close(self) -> None:
        """Close the connection that is kept."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def answer(self, line: Line, number: int, path: str, otherwise: str = "") -> Answer | None:
        """Read the answer to a request; None where there is none, which is a fault unless `otherwise` is "cut"."""
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
        """Enter an answer into the book: it is the right one, a refusal, or has the status `otherwise`."""
        self.seen[str(answer.status)] += 1
        if answer.status in (429, 503):
            if answer.fields.get("x-intralb-executed") == "0":
                self.book.was_not_run(number)
            return
        if answer.status == otherwise:
            return
        told = answer.fields.get("x-ledger")
        if answer.status != 200 or told != self.identity(number):
            self.faults.add(f"{path}: answered {answer.status} for {told}, {answer.body[:80]!r}")
        elif answer.body != body:
            self.faults.add(f"{path}: the body has {len(answer.body)} bytes, {answer.body[:60]!r}, not {len(body)}")
        self.book.was_answered(number)
